/* LD_PRELOAD library: counts the calls that change files below a folder, and kills the process at
   the N-th, lets it fail, or records all of them for a replay.

   Counted: opens that may create or truncate, write, pwrite, ftruncate, fsync, fdatasync, rename*,
   unlink*, rmdir, and close of what is opened below the folder. A write that is to die first puts
   half of its bytes out. Seen are calls through libc's symbols; static binaries escape. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF = 0, COUNT = 1, KILL = 2, FAIL = 3, RECORD = 4 };

static char root[PATH_MAX];
static size_t root_length;
static int mode = OFF, error_number, log_fd = -1;
static long at, calls;
static char failing[64]; /* which calls fail: "" all, or a name */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, arguments)                       \
  static result(*real_##name) arguments;                    \
  if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

/* Called from Python. `record`: a descriptor outside the folder, or -1. */
void torture_arm(const char *folder, int how, long when, int error, const char *only, int record) {
  snprintf(root, sizeof root, "%s", folder);
  root_length = strlen(root);
  snprintf(failing, sizeof failing, "%s", only);
  at = when, error_number = error, calls = 0, log_fd = record, mode = how;
}

long torture_calls(void) { return calls; }

static int below(const char *path) {
  return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute path of (directory, path), links in it unresolved. */
static int absolute(int directory, const char *path, char *out) {
  char link[64], base[PATH_MAX];
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
    return 1;
  }
  if (directory == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) return 0;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return 0;
    base[n] = 0;
  }
  return snprintf(out, PATH_MAX, "%s/%s", base, path) < PATH_MAX;
}

static int path_of(int fd, char *out) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, out, PATH_MAX - 1);
  if (n < 0) return 0;
  out[n] = 0;
  return below(out);
}

static void put(int fd, const void *data, size_t n) {
  REAL(ssize_t, write, (int, const void *, size_t));
  while (n) {
    ssize_t done = real_write(fd, data, n);
    if (done <= 0) return;
    data = (const char *)data + done, n -= done;
  }
}

/* A call is due. Returns 1: it is to fail with errno set; 2: it is to die. */
static int due(const char *name, const char *path, const char *other, long offset,
               const void *data, size_t n) {
  int result = 0, kept = errno;
  pthread_mutex_lock(&lock);
  if (mode != OFF && !(mode == FAIL && failing[0] && strcmp(failing, name))) calls++;
  else goto done;
  if (mode == RECORD && log_fd >= 0) {
    char line[2 * PATH_MAX + 100];
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", name, path,
                          other ? other : "", offset, n);
    put(log_fd, line, length);
    if (n) put(log_fd, data, n);
  }
  if (calls == at && mode == KILL) result = 2;
  if (calls == at && mode == FAIL) result = 1;
done:
  pthread_mutex_unlock(&lock);
  errno = result == 1 ? error_number : kept;
  return result;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define GUARD(...)                       \
  switch (due(__VA_ARGS__)) {            \
    case 1: return -1;                   \
    case 2: die();                       \
  }

ssize_t write(int fd, const void *data, size_t n) {
  REAL(ssize_t, write, (int, const void *, size_t));
  char path[PATH_MAX];
  if (mode && path_of(fd, path)) {
    off_t where = (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    switch (due("write", path, 0, where, data, n)) {
      case 1: return -1;
      case 2: real_write(fd, data, n / 2), die();
    }
  }
  return real_write(fd, data, n);
}

#define PWRITE(name, offset_type)                                                     \
  ssize_t name(int fd, const void *data, size_t n, offset_type offset) {              \
    REAL(ssize_t, name, (int, const void *, size_t, offset_type));                    \
    char path[PATH_MAX];                                                              \
    if (mode && path_of(fd, path)) switch (due("write", path, 0, offset, data, n)) {  \
        case 1: return -1;                                                            \
        case 2: real_##name(fd, data, n / 2, offset), die();                          \
      }                                                                               \
    return real_##name(fd, data, n, offset);                                          \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset_type)                                          \
  int name(int fd, offset_type length) {                                     \
    REAL(int, name, (int, offset_type));                                     \
    char path[PATH_MAX];                                                     \
    if (mode && path_of(fd, path)) GUARD("ftruncate", path, 0, length, 0, 0) \
    return real_##name(fd, length);                                          \
  }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ON_FD(name, label)                                          \
  int name(int fd) {                                                \
    REAL(int, name, (int));                                         \
    char path[PATH_MAX];                                            \
    if (mode && path_of(fd, path)) GUARD(label, path, 0, 0, 0, 0)   \
    return real_##name(fd);                                         \
  }
ON_FD(fsync, "fsync")
ON_FD(fdatasync, "fsync")

int close(int fd) {
  REAL(int, close, (int));
  char path[PATH_MAX];
  if (mode && path_of(fd, path)) switch (due("close", path, 0, 0, 0, 0)) {
      case 1: real_close(fd); errno = error_number; return -1; /* as Linux: closed all the same */
      case 2: die();
    }
  return real_close(fd);
}

static int rename_due(int from_directory, const char *from, int to_directory, const char *to) {
  char a[PATH_MAX], b[PATH_MAX];
  if (!mode || !absolute(from_directory, from, a) || !absolute(to_directory, to, b)) return 0;
  return below(a) || below(b) ? due("rename", a, b, 0, 0, 0) : 0;
}
#define RENAME(condition) switch (condition) { case 1: return -1; case 2: die(); }

int rename(const char *from, const char *to) {
  REAL(int, rename, (const char *, const char *));
  RENAME(rename_due(AT_FDCWD, from, AT_FDCWD, to))
  return real_rename(from, to);
}
int renameat(int fd, const char *from, int gd, const char *to) {
  REAL(int, renameat, (int, const char *, int, const char *));
  RENAME(rename_due(fd, from, gd, to))
  return real_renameat(fd, from, gd, to);
}
int renameat2(int fd, const char *from, int gd, const char *to, unsigned flags) {
  REAL(int, renameat2, (int, const char *, int, const char *, unsigned));
  RENAME(rename_due(fd, from, gd, to))
  return real_renameat2(fd, from, gd, to, flags);
}

#define AT_PATH(name, directory, path, label)                        \
  char whole[PATH_MAX];                                              \
  if (mode && absolute(directory, path, whole) && below(whole))      \
    GUARD(label, whole, 0, 0, 0, 0)

int unlink(const char *path) {
  REAL(int, unlink, (const char *));
  AT_PATH(unlink, AT_FDCWD, path, "unlink")
  return real_unlink(path);
}
int unlinkat(int fd, const char *path, int flags) {
  REAL(int, unlinkat, (int, const char *, int));
  AT_PATH(unlinkat, fd, path, (flags & AT_REMOVEDIR) ? "rmdir" : "unlink")
  return real_unlinkat(fd, path, flags);
}
int rmdir(const char *path) {
  REAL(int, rmdir, (const char *));
  AT_PATH(rmdir, AT_FDCWD, path, "rmdir")
  return real_rmdir(path);
}
int mkdir(const char *path, mode_t bits) {
  REAL(int, mkdir, (const char *, mode_t));
  AT_PATH(mkdir, AT_FDCWD, path, "mkdir")
  return real_mkdir(path, bits);
}

#define CREATES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define BITS(flags)                                \
  mode_t bits = 0;                                 \
  if ((flags) & O_CREAT) {                         \
    va_list rest;                                  \
    va_start(rest, flags);                         \
    bits = va_arg(rest, mode_t);                   \
    va_end(rest);                                  \
  }
#define OPEN(name)                                                                    \
  int name(const char *path, int flags, ...) {                                        \
    REAL(int, name, (const char *, int, ...));                                        \
    BITS(flags)                                                                       \
    char whole[PATH_MAX];                                                             \
    if (mode && CREATES(flags) && absolute(AT_FDCWD, path, whole) && below(whole))    \
      GUARD((flags) & O_TRUNC ? "truncate" : "open", whole, 0, 0, 0, 0)               \
    return real_##name(path, flags, bits);                                            \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                  \
  int name(int fd, const char *path, int flags, ...) {                                \
    REAL(int, name, (int, const char *, int, ...));                                   \
    BITS(flags)                                                                       \
    char whole[PATH_MAX];                                                             \
    if (mode && CREATES(flags) && absolute(fd, path, whole) && below(whole))          \
      GUARD((flags) & O_TRUNC ? "truncate" : "open", whole, 0, 0, 0, 0)               \
    return real_##name(fd, path, flags, bits);                                        \
  }
OPENAT(openat)
OPENAT(openat64)
