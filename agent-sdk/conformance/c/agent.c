// Does what every SDK must be able to; see the scenarios beside it.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent_sdk.h"

#define INSERT "INSERT INTO notes (text, number) VALUES ($1, $2)"
#define SELECT "SELECT text, number, number < $1 AS fits, NULL::text IS NOT NULL AS nothing FROM notes"
#define A_MINUTE_MS 60000
#define LATER_MS 90000
#define SOON_MS 5

static bool insert(agent_database *database, const char *note, agent_error *error) {
  agent_value values[] = {agent_string(note), agent_int(7)};
  return agent_open("main", database, error) && agent_execute(*database, INSERT, values, 2, NULL, error);
}

static agent_outcome sql(const char *note) {
  agent_database database;
  agent_error error;
  agent_rows *rows;
  const agent_value *row;
  agent_value most = agent_int(8);
  if (!insert(&database, note, &error)) return agent_failed(&error);
  if (!agent_query(database, SELECT, &most, 1, &rows, &error)) return agent_failed(&error);
  if (!agent_next(rows, &row, &error)) return agent_failed(&error);
  if (row == NULL) return agent_reject("no row");
  return agent_json("{\"text\":\"%s\",\"number\":%" PRId64 ",\"fits\":%s,\"nothing\":%s}", row[0].bytes.bytes,
                    row[1].integer, row[2].boolean ? "true" : "false", row[3].boolean ? "true" : "false");
}

static agent_outcome file(void) {
  FILE *in = fopen("/data/in.txt", "rb"), *out = fopen("/data/out.txt", "wb");
  char text[1024];
  if (in == NULL || out == NULL) return agent_reject("a file does not open");
  size_t length = fread(text, 1, sizeof text, in);
  fwrite(text, 1, length, out);
  if (fclose(out) != 0) return agent_reject("a file is not written");
  return agent_text("%.*s", (int)length, text);
}

static agent_outcome calls(const char *deed, const agent_task *task) {
  const char *text = task->body.bytes, *value = NULL;
  agent_error error;
  agent_bytes bytes;
  int64_t sum;
  if (strcmp(deed, "config") == 0) {
    if (!agent_config(text, &value, &error)) return agent_failed(&error);
    return agent_text("%s", value == NULL ? "" : value);
  }
  if (strcmp(deed, "secret") == 0) {
    if (!agent_secret(text, &value, &error)) return agent_failed(&error);
    agent_info("the key is %s", value);
    return agent_text("%zu characters", strlen(value));
  }
  if (strcmp(deed, "key-value") == 0) {
    if (!agent_kv_increment("default", text, 2, &sum, &error)) return agent_failed(&error);
    return agent_text("%" PRId64, sum);
  }
  if (strcmp(deed, "other-bucket") == 0) {
    if (!agent_kv_get("other", "key", &bytes, &error)) return agent_failed(&error);
    return agent_output(NULL, bytes.bytes, bytes.length);
  }
  if (strcmp(deed, "cache") == 0) {
    if (!agent_cache_set("key", text, task->body.length, A_MINUTE_MS, &error)) return agent_failed(&error);
    if (!agent_cache_get("key", &bytes, &error)) return agent_failed(&error);
    return agent_output(NULL, bytes.bytes, bytes.length);
  }
  if (strcmp(deed, "cache-ttl") == 0) {
    if (!agent_cache_set("key", text, task->body.length, SOON_MS, &error)) return agent_failed(&error);
    do {
      if (!agent_cache_get("key", &bytes, &error)) return agent_failed(&error);
    } while (bytes.bytes != NULL);
    return agent_text("forgotten");
  }
  if (strcmp(deed, "cancel") == 0) {
    if (!agent_cache_set("key", "half done", strlen("half done"), 0, &error)) return agent_failed(&error);
    while (!agent_is_cancelled()) {
    }
    agent_info("stopped tidily");
    return agent_done();
  }
  if (strcmp(deed, "sql") == 0) return sql(text);
  if (strcmp(deed, "sql-reject") == 0) {
    agent_database database;
    if (!insert(&database, text, &error)) return agent_failed(&error);
    return agent_reject("on second thoughts");
  }
  if (strcmp(deed, "submit") == 0 || strcmp(deed, "submit-reject") == 0) {
    if (!agent_submit("echo", text, task->body.length, NULL, &error)) return agent_failed(&error);
    return strcmp(deed, "submit") == 0 ? agent_done() : agent_reject("on second thoughts");
  }
  if (strcmp(deed, "http") == 0) {
    agent_http_request request = {.url = text};
    agent_http_response response;
    if (!agent_http(&request, &response, &error)) return agent_failed(&error);
    return agent_text("%d %s", response.status, response.body.bytes);
  }
  if (strcmp(deed, "http-post") == 0) {
    agent_pair header = {"content-type", "text/plain"};
    agent_http_request request = {
        .method = "POST", .url = text, .headers = &header, .header_count = 1, .body = "tea", .body_length = strlen("tea")};
    agent_http_response response;
    if (!agent_http(&request, &response, &error) || !agent_http_ok(&response, &error)) return agent_failed(&error);
    return agent_text("order %s", agent_http_header(&response, "X-Order"));
  }
  return agent_reject("this SDK does not do %s", deed);
}

agent_outcome agent_handle(const agent_task *task) {
  const char *deed = agent_header(task, "do"), *text = task->body.bytes;
  if (deed == NULL) return agent_reject("no deed");
  if (strcmp(deed, "echo") == 0) return agent_output(task->content_type, text, task->body.length);
  if (strcmp(deed, "count") == 0) {
    unsigned long sum = 0;
    for (size_t i = 0; i < task->body.length; i++) sum += (unsigned char)text[i];
    return agent_text("%zu bytes, sum %lu", task->body.length, sum);
  }
  if (strcmp(deed, "header") == 0) return agent_text("%s", agent_header(task, "colour"));
  if (strcmp(deed, "reject") == 0) return agent_reject("%s", text);
  if (strcmp(deed, "retry") == 0) return agent_retry("%s", text);
  if (strcmp(deed, "retry-after") == 0) return agent_retry_after(LATER_MS, "%s", text);
  if (strcmp(deed, "second-attempt") == 0) {
    return task->attempt < 2 ? agent_retry("not yet") : agent_text("attempt %" PRIu32, task->attempt);
  }
  if (strcmp(deed, "trap") == 0) abort();
  if (strcmp(deed, "log") == 0) {
    agent_info("%s", text);
    return agent_done();
  }
  if (strcmp(deed, "spin") == 0) {
    for (volatile int i = 0;; i++) {
    }
  }
  if (strcmp(deed, "file") == 0) return file();
  return calls(deed, task);
}
