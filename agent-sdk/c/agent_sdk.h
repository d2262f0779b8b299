/* Write agents for agent-host in C: a function from a task to an outcome.
 *
 *     #include "agent_sdk.h"
 *
 *     agent_outcome agent_handle(const agent_task *task) {
 *       return agent_text("Hello, %.*s!", (int)task->body.length, task->body.bytes);
 *     }
 *
 * Whatever these functions give lives as long as the instance: one task, by default. Nothing is to be freed. */

#ifndef AGENT_SDK_H
#define AGENT_SDK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_FORMAT(text, first) __attribute__((format(printf, text, first)))

/* Bytes, with a NUL after them that is not counted. */
typedef struct {
  const char *bytes;
  size_t length;
} agent_bytes;

typedef struct {
  const char *name, *value;
} agent_pair;

/* One unit of work, as one attempt sees it. */
typedef struct {
  const char *id, *agent;
  uint32_t revision, attempt, max_attempts;
  uint64_t enqueued_at_ms, deadline_ms;
  const char *content_type;
  agent_bytes body;
  const agent_pair *headers;
  size_t header_count;
  const char *traceparent; /* or NULL */
} agent_task;

/* The first header of this name, which is in lower case, or NULL. */
const char *agent_header(const agent_task *task, const char *name);

/* What became of a task; made by the functions below. */
typedef struct agent_outcome {
  int kind;
  const char *content_type, *text;
  size_t length;
  uint64_t after_ms;
} agent_outcome;

/* The agent: yours to write. */
agent_outcome agent_handle(const agent_task *task);

/* It succeeded, with nothing to give; with bytes; with text. */
agent_outcome agent_done(void);
agent_outcome agent_output(const char *content_type, const void *bytes, size_t length);
agent_outcome agent_text(const char *format, ...) AGENT_FORMAT(1, 2);
/* Likewise, as application/json. */
agent_outcome agent_json(const char *format, ...) AGENT_FORMAT(1, 2);
/* It may work later: another attempt after the manifest's backoff, or not before this many milliseconds have passed. */
agent_outcome agent_retry(const char *format, ...) AGENT_FORMAT(1, 2);
agent_outcome agent_retry_after(uint64_t ms, const char *format, ...) AGENT_FORMAT(2, 3);
/* It will never work: a dead letter at once. */
agent_outcome agent_reject(const char *format, ...) AGENT_FORMAT(1, 2);

/* Why a call to the host failed. Calls give false where they did. */
typedef struct {
  const char *message;
  bool is_transient;
  char sqlstate[6]; /* of PostgreSQL, or empty */
} agent_error;

/* The task's outcome after such an error: tried again where it may pass, else rejected. */
agent_outcome agent_failed(const agent_error *error);

/* A value of the manifest's [config], or NULL. */
bool agent_config(const char *key, const char **value, agent_error *error);
/* A secret that the manifest lists under [secrets]. */
bool agent_secret(const char *name, const char **value, agent_error *error);

/* Log lines. What is printed is logged too. */
void agent_debug(const char *format, ...) AGENT_FORMAT(1, 2);
void agent_info(const char *format, ...) AGENT_FORMAT(1, 2);
void agent_warn(const char *format, ...) AGENT_FORMAT(1, 2);
void agent_log_error(const char *format, ...) AGENT_FORMAT(1, 2);

/* Submits a task to an agent that the manifest names under grants.tasks; it leaves with this one. Options may be NULL. */
typedef struct {
  uint64_t delay_ms;
  const char *idempotency_key, *content_type;
} agent_submit_options;
bool agent_submit(const char *agent, const void *body, size_t length, const agent_submit_options *options, agent_error *error);
/* Whether somebody cancelled the running task; and how far it is. */
bool agent_is_cancelled(void);
void agent_progress(double fraction, const char *note);

/* Keys of a bucket that the manifest grants. A key that is not there gives NULL bytes. */
bool agent_kv_get(const char *bucket, const char *key, agent_bytes *value, agent_error *error);
bool agent_kv_set(const char *bucket, const char *key, const void *value, size_t length, agent_error *error);
bool agent_kv_delete(const char *bucket, const char *key, agent_error *error);
bool agent_kv_increment(const char *bucket, const char *key, int64_t delta, int64_t *sum, agent_error *error);

/* The cache, where the manifest grants it: values that may be forgotten. Without an end, ttl_ms is 0. */
bool agent_cache_get(const char *key, agent_bytes *value, agent_error *error);
bool agent_cache_set(const char *key, const void *value, size_t length, uint64_t ttl_ms, agent_error *error);
bool agent_cache_delete(const char *key, agent_error *error);
bool agent_cache_increment(const char *key, int64_t delta, int64_t *sum, agent_error *error);

/* A request over HTTP, to an origin that the manifest names under grants.allowed_outbound_hosts. All but the URL may be left
 * out: then it is a GET without headers and body. */
typedef struct {
  const char *method, *url;
  const agent_pair *headers;
  size_t header_count;
  const void *body;
  size_t body_length;
  uint64_t timeout_ms; /* at most this long for the connection, and again for the first byte of the response */
} agent_http_request;

/* The response, read whole. */
typedef struct {
  uint16_t status;
  const agent_pair *headers;
  size_t header_count;
  agent_bytes body;
} agent_http_response;

/* Sends a request and waits for its response, whatever its status. A redirect is a response like any other. */
bool agent_http(const agent_http_request *request, agent_http_response *response, agent_error *error);
/* Whether the status is a success (2xx). If not, 408, 425, 429 and 5xx are errors that may pass. */
bool agent_http_ok(const agent_http_response *response, agent_error *error);
/* The first header of this name, whatever its case, or NULL. */
const char *agent_http_header(const agent_http_response *response, const char *name);

/* A database that the manifest grants. Under transaction = "task" all that a task does in it commits together. */
typedef struct {
  int32_t handle;
} agent_database;

typedef enum { AGENT_NULL, AGENT_BOOL, AGENT_INT, AGENT_DOUBLE, AGENT_TEXT, AGENT_BINARY } agent_kind;

/* A parameter, or a value of a row. Dates, times, decimals, UUIDs and JSON of a row are text. */
typedef struct {
  agent_kind kind;
  bool boolean;
  int64_t integer;
  double number;
  agent_bytes bytes; /* of text and binary */
} agent_value;

agent_value agent_null(void);
agent_value agent_bool(bool value);
agent_value agent_int(int64_t value);
agent_value agent_double(double value);
agent_value agent_string(const char *value);
agent_value agent_binary(const void *value, size_t length);

/* Rows, which come as they are asked for. */
typedef struct agent_rows agent_rows;

bool agent_open(const char *name, agent_database *database, agent_error *error);
bool agent_execute(agent_database database, const char *statement, const agent_value *parameters, size_t count,
                   uint64_t *affected, agent_error *error);
bool agent_query(agent_database database, const char *statement, const agent_value *parameters, size_t count,
                 agent_rows **rows, agent_error *error);
/* The next row: as many values as the query has columns, or NULL at the end. */
bool agent_next(agent_rows *rows, const agent_value **row, agent_error *error);
size_t agent_column_count(const agent_rows *rows);
const char *agent_column(const agent_rows *rows, size_t index);

#endif
