/* Opens, reads and closes every file named in argv[1], a list of paths that end with a zero byte: what reading costs
   whoever does nothing else. Compiled by row 7 where there is a compiler. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char buffer[1 << 20];

int main(int argc, char **argv) {
    struct stat status;
    int list = argc == 2 ? open(argv[1], O_RDONLY) : -1;
    if (list < 0 || fstat(list, &status)) return 1;
    char *names = malloc(status.st_size + 1), *name;
    if (!names || read(list, names, status.st_size) != status.st_size) return 1;
    unsigned long long total = 0;
    for (name = names; name < names + status.st_size; name += strlen(name) + 1) {
        ssize_t got;
        int file = open(name, O_RDONLY);
        if (file < 0) return 1;
        while ((got = read(file, buffer, sizeof buffer)) > 0) total += got;
        close(file);
    }
    printf("%llu\n", total);
    return 0;
}
