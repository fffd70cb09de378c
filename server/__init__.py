"""One aiohttp process that stores blobs, schedules tasks and serves the REST APIs and web pages."""
