"""Content-addressed storage: blobs, blocks, stores and the local cache; knows no trees and no tasks."""
