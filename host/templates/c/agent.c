// Greets whoever is named.

#include <string.h>

#include "agent_sdk.h"

// Finds the text of {"name": "..."}; enough for a greeting, and no JSON parser.
static bool find_name(const char *body, const char **name, int *length) {
  const char *at = strstr(body, "\"name\"");
  if (at == NULL || (at = strchr(at + 6, '"')) == NULL) return false;
  const char *end = strchr(at + 1, '"');
  if (end == NULL) return false;
  *name = at + 1;
  *length = (int)(end - *name);
  return true;
}

agent_outcome agent_handle(const agent_task *task) {
  const char *name;
  int length;
  if (!find_name(task->body.bytes, &name, &length)) return agent_reject("the body names nobody");
  return agent_json("{\"greeting\":\"Hello, %.*s!\"}", length, name);
}
