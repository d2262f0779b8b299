// Does what the command shape is able to; see the scenarios beside it.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY_AGAIN 75

static unsigned char body[2 * 1024 * 1024];

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value == NULL ? "" : value;
}

static int fail(int code, const char *why, size_t length) {
  fwrite(why, 1, length, stderr);
  fputc('\n', stderr);
  return code;
}

static int file(void) {
  FILE *in = fopen("/data/in.txt", "rb"), *out = fopen("/data/out.txt", "wb");
  if (in == NULL || out == NULL) return fail(1, "a file does not open", 20);
  size_t length = fread(body, 1, sizeof body, in);
  fwrite(body, 1, length, out);
  fwrite(body, 1, length, stdout);
  return fclose(out) == 0 ? 0 : 1;
}

int main(void) {
  size_t length = fread(body, 1, sizeof body, stdin);
  const char *deed = variable("TASK_HEADER_DO");
  if (strcmp(deed, "echo") == 0) {
    fwrite(body, 1, length, stdout);
  } else if (strcmp(deed, "count") == 0) {
    unsigned long sum = 0;
    for (size_t i = 0; i < length; i++) sum += body[i];
    printf("%zu bytes, sum %lu", length, sum);
  } else if (strcmp(deed, "header") == 0) {
    printf("%s", variable("TASK_HEADER_COLOUR"));
  } else if (strcmp(deed, "reject") == 0) {
    return fail(1, (char *)body, length);
  } else if (strcmp(deed, "retry") == 0) {
    return fail(TRY_AGAIN, (char *)body, length);
  } else if (strcmp(deed, "second-attempt") == 0) {
    if (strcmp(variable("TASK_ATTEMPT"), "1") == 0) return fail(TRY_AGAIN, "not yet", 7);
    printf("attempt %s", variable("TASK_ATTEMPT"));
  } else if (strcmp(deed, "trap") == 0) {
    __builtin_trap();
  } else if (strcmp(deed, "log") == 0) {
    return fail(0, (char *)body, length);
  } else if (strcmp(deed, "spin") == 0) {
    for (volatile int i = 0;; i++) {
    }
  } else if (strcmp(deed, "file") == 0) {
    return file();
  } else {
    return fail(1, "this shape does not do that", 27);
  }
  return 0;
}
