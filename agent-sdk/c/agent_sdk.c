/* See agent_sdk.h. Beneath are the bindings that wit-bindgen makes of the interface. */

#include "agent_sdk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bindings/agent.h"

enum { DONE, OUTPUT, RETRY, RETRY_AFTER, REJECT };

#define ROWS_PER_CALL 256

/* Tools for components describe the module in an object file that is linked by this name. The host needs none. */
void __component_type_object_force_link_agent(void);
void __component_type_object_force_link_agent(void) {}

/* Texts */

static void *allocated(size_t size) {
  void *memory = calloc(1, size == 0 ? 1 : size);
  if (memory == NULL) abort();
  return memory;
}

static agent_bytes kept(const void *bytes, size_t length) {
  char *copy = allocated(length + 1);
  if (length > 0) memcpy(copy, bytes, length);
  return (agent_bytes){copy, length};
}

static const char *text(agent_string_t string) { return kept(string.ptr, string.len).bytes; }

/* What the host is handed, which does not change it. */
static agent_string_t string(const char *text) { return (agent_string_t){(uint8_t *)text, strlen(text)}; }
static agent_list_u8_t list(const void *bytes, size_t length) { return (agent_list_u8_t){(uint8_t *)bytes, length}; }

/* What the host takes and frees. */
static agent_string_t given(const char *text) {
  agent_string_t copy;
  agent_string_dup(&copy, text);
  return copy;
}

static agent_bytes formatted(const char *format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  if (length < 0) abort();
  char *text = allocated((size_t)length + 1);
  vsnprintf(text, (size_t)length + 1, format, arguments);
  return (agent_bytes){text, (size_t)length};
}

#define FORMATTED(into)              \
  agent_bytes into;                  \
  {                                  \
    va_list arguments;               \
    va_start(arguments, format);     \
    into = formatted(format, arguments); \
    va_end(arguments);               \
  }

/* Outcomes */

agent_outcome agent_done(void) { return (agent_outcome){.kind = DONE}; }

agent_outcome agent_output(const char *content_type, const void *bytes, size_t length) {
  return (agent_outcome){.kind = OUTPUT, .content_type = content_type, .text = bytes, .length = length};
}

agent_outcome agent_text(const char *format, ...) {
  FORMATTED(said);
  return agent_output("text/plain; charset=utf-8", said.bytes, said.length);
}

agent_outcome agent_json(const char *format, ...) {
  FORMATTED(said);
  return agent_output("application/json", said.bytes, said.length);
}

agent_outcome agent_retry(const char *format, ...) {
  FORMATTED(said);
  return (agent_outcome){.kind = RETRY, .text = said.bytes, .length = said.length};
}

agent_outcome agent_retry_after(uint64_t ms, const char *format, ...) {
  FORMATTED(said);
  return (agent_outcome){.kind = RETRY_AFTER, .text = said.bytes, .length = said.length, .after_ms = ms};
}

agent_outcome agent_reject(const char *format, ...) {
  FORMATTED(said);
  return (agent_outcome){.kind = REJECT, .text = said.bytes, .length = said.length};
}

agent_outcome agent_failed(const agent_error *error) {
  return error->is_transient ? agent_retry("%s", error->message) : agent_reject("%s", error->message);
}

/* Tasks */

const char *agent_header(const agent_task *task, const char *name) {
  for (size_t i = 0; i < task->header_count; i++) {
    if (strcmp(task->headers[i].name, name) == 0) return task->headers[i].value;
  }
  return NULL;
}

static agent_task lifted(const exports_agent_runtime_handler_task_t *raw) {
  agent_pair *headers = allocated(raw->headers.len * sizeof *headers);
  for (size_t i = 0; i < raw->headers.len; i++) {
    headers[i] = (agent_pair){text(raw->headers.ptr[i].f0), text(raw->headers.ptr[i].f1)};
  }
  return (agent_task){
      .id = text(raw->id),
      .agent = text(raw->agent),
      .revision = raw->revision,
      .attempt = raw->attempt,
      .max_attempts = raw->max_attempts,
      .enqueued_at_ms = raw->enqueued_at,
      .deadline_ms = raw->deadline,
      .content_type = text(raw->content_type),
      .body = kept(raw->body.ptr, raw->body.len),
      .headers = headers,
      .header_count = raw->headers.len,
      .traceparent = raw->traceparent.is_some ? text(raw->traceparent.val) : NULL,
  };
}

bool exports_agent_runtime_handler_handle(exports_agent_runtime_handler_task_t *raw,
                                          exports_agent_runtime_handler_option_output_t *output,
                                          exports_agent_runtime_handler_failure_t *failure) {
  agent_task task = lifted(raw);
  exports_agent_runtime_handler_task_free(raw);
  agent_outcome outcome = agent_handle(&task);
  agent_bytes said = kept(outcome.text, outcome.length);
  agent_string_t message = {(uint8_t *)said.bytes, said.length};
  *output = (exports_agent_runtime_handler_option_output_t){0};
  switch (outcome.kind) {
    case RETRY:
      failure->tag = 0;
      failure->val.retry = message;
      return false;
    case RETRY_AFTER:
      failure->tag = 1;
      failure->val.retry_after.f0 = outcome.after_ms;
      failure->val.retry_after.f1 = message;
      return false;
    case REJECT:
      failure->tag = 2;
      failure->val.reject = message;
      return false;
    case OUTPUT:
      output->is_some = true;
      output->val.body = (agent_list_u8_t){(uint8_t *)said.bytes, said.length};
      output->val.content_type.is_some = outcome.content_type != NULL;
      if (outcome.content_type != NULL) output->val.content_type.val = given(outcome.content_type);
      return true;
    default:
      return true;
  }
}

/* Errors */

static bool failed(agent_error *error, const char *what, agent_string_t message, bool is_transient) {
  char *said = allocated(strlen(what) + message.len + 3);
  sprintf(said, "%s: %.*s", what, (int)message.len, (const char *)message.ptr);
  *error = (agent_error){.message = said, .is_transient = is_transient};
  return false;
}

static agent_bytes printed(const char *format, ...) {
  FORMATTED(said);
  return said;
}

static bool kv_failed(agent_error *error, const char *bucket, const wasi_keyvalue_0_2_0_draft2_store_error_t *raw) {
  if (raw->tag == WASI_KEYVALUE_0_2_0_DRAFT2_STORE_ERROR_OTHER) return failed(error, "key-value", raw->val.other, true);
  agent_bytes said = printed("access to the bucket %s is denied: add it to key_value under [grants] in agent.toml", bucket);
  return failed(error, "key-value", (agent_string_t){(uint8_t *)said.bytes, said.length}, false);
}

static bool cache_failed(agent_error *error, const agent_runtime_cache_error_t *raw) {
  /* Every case has a text, in the same place. */
  return failed(error, "cache", raw->val.unavailable, raw->tag == AGENT_RUNTIME_CACHE_ERROR_UNAVAILABLE);
}

static bool sql_failed(agent_error *error, const agent_runtime_sql_error_t *raw) {
  if (raw->tag != AGENT_RUNTIME_SQL_ERROR_QUERY_FAILED) {
    return failed(error, "sql", raw->val.connection_failed, raw->tag == AGENT_RUNTIME_SQL_ERROR_CONNECTION_FAILED);
  }
  const agent_runtime_sql_db_error_t *query = &raw->val.query_failed;
  const char *state = text(query->sqlstate);
  static const char *const passing[] = {"08", "40", "53", "57", "55P03"};
  bool is_transient = false;
  for (size_t i = 0; i < sizeof passing / sizeof *passing; i++) {
    is_transient = is_transient || strncmp(state, passing[i], strlen(passing[i])) == 0;
  }
  failed(error, "sql", query->message, is_transient);
  strncpy(error->sqlstate, state, sizeof error->sqlstate - 1);
  return false;
}

/* Configuration, secrets, log */

bool agent_config(const char *key, const char **value, agent_error *error) {
  agent_string_t name = string(key);
  agent_option_string_t found;
  wasi_config_store_error_t raw;
  if (!wasi_config_store_get(&name, &found, &raw)) return failed(error, "config", raw.val.io, true);
  *value = found.is_some ? text(found.val) : NULL;
  return true;
}

bool agent_secret(const char *name, const char **value, agent_error *error) {
  agent_string_t wanted = string(name), revealed;
  agent_runtime_secrets_own_secret_t secret;
  agent_runtime_secrets_error_t raw;
  if (!agent_runtime_secrets_get(&wanted, &secret, &raw)) {
    return failed(error, "secrets", raw.val.unavailable, raw.tag == AGENT_RUNTIME_SECRETS_ERROR_UNAVAILABLE);
  }
  agent_runtime_secrets_method_secret_reveal(agent_runtime_secrets_borrow_secret(secret), &revealed);
  *value = text(revealed);
  return true;
}

static void logged(wasi_logging_logging_level_t level, agent_bytes said) {
  agent_string_t context = string(""), message = {(uint8_t *)said.bytes, said.length};
  wasi_logging_logging_log(level, &context, &message);
}

#define LOG(name, level)                  \
  void name(const char *format, ...) {    \
    FORMATTED(said);                      \
    logged(level, said);                  \
  }
LOG(agent_debug, WASI_LOGGING_LOGGING_LEVEL_DEBUG)
LOG(agent_info, WASI_LOGGING_LOGGING_LEVEL_INFO)
LOG(agent_warn, WASI_LOGGING_LOGGING_LEVEL_WARN)
LOG(agent_log_error, WASI_LOGGING_LOGGING_LEVEL_ERROR)

/* Follow-up tasks, and the running one */

bool agent_submit(const char *agent, const void *body, size_t length, const agent_submit_options *options,
                  agent_error *error) {
  agent_runtime_tasks_submit_options_t raw_options = {0};
  if (options != NULL) {
    raw_options.delay_ms = (agent_option_u64_t){options->delay_ms > 0, options->delay_ms};
    if (options->idempotency_key != NULL) {
      raw_options.idempotency_key = (agent_option_string_t){true, string(options->idempotency_key)};
    }
    if (options->content_type != NULL) {
      raw_options.content_type = (agent_option_string_t){true, string(options->content_type)};
    }
  }
  agent_string_t name = string(agent);
  agent_list_u8_t bytes = list(body, length);
  agent_runtime_tasks_task_id_t id;
  agent_runtime_tasks_error_t raw;
  if (agent_runtime_tasks_submit(&name, &bytes, &raw_options, &id, &raw)) return true;
  return failed(error, "tasks", raw.val.unavailable, raw.tag == AGENT_RUNTIME_TASKS_ERROR_UNAVAILABLE);
}

bool agent_is_cancelled(void) { return agent_runtime_tasks_is_cancelled(); }

void agent_progress(double fraction, const char *note) {
  agent_string_t said = note == NULL ? (agent_string_t){0} : string(note);
  agent_runtime_tasks_progress(fraction, note == NULL ? NULL : &said);
}

/* Key-value and cache */

static agent_bytes found(const agent_option_list_u8_t *value) {
  return value->is_some ? kept(value->val.ptr, value->val.len) : (agent_bytes){NULL, 0};
}

static bool bucket(const char *name, wasi_keyvalue_0_2_0_draft2_store_borrow_bucket_t *opened, agent_error *error) {
  agent_string_t identifier = string(name);
  wasi_keyvalue_0_2_0_draft2_store_own_bucket_t owned;
  wasi_keyvalue_0_2_0_draft2_store_error_t raw;
  if (!wasi_keyvalue_0_2_0_draft2_store_open(&identifier, &owned, &raw)) return kv_failed(error, name, &raw);
  *opened = wasi_keyvalue_0_2_0_draft2_store_borrow_bucket(owned);
  return true;
}

static void close_bucket(wasi_keyvalue_0_2_0_draft2_store_borrow_bucket_t opened) {
  wasi_keyvalue_0_2_0_draft2_store_bucket_drop_own((wasi_keyvalue_0_2_0_draft2_store_own_bucket_t){opened.__handle});
}

#define IN_BUCKET(call)                                    \
  wasi_keyvalue_0_2_0_draft2_store_borrow_bucket_t opened; \
  if (!bucket(name, &opened, error)) return false;         \
  agent_string_t wanted = string(key);                     \
  wasi_keyvalue_0_2_0_draft2_store_error_t raw;            \
  bool works = call;                                       \
  close_bucket(opened);                                    \
  if (!works) return kv_failed(error, name, &raw);

bool agent_kv_get(const char *name, const char *key, agent_bytes *value, agent_error *error) {
  agent_option_list_u8_t gotten;
  IN_BUCKET(wasi_keyvalue_0_2_0_draft2_store_method_bucket_get(opened, &wanted, &gotten, &raw))
  *value = found(&gotten);
  return true;
}

bool agent_kv_set(const char *name, const char *key, const void *value, size_t length, agent_error *error) {
  agent_list_u8_t bytes = list(value, length);
  IN_BUCKET(wasi_keyvalue_0_2_0_draft2_store_method_bucket_set(opened, &wanted, &bytes, &raw))
  return true;
}

bool agent_kv_delete(const char *name, const char *key, agent_error *error) {
  IN_BUCKET(wasi_keyvalue_0_2_0_draft2_store_method_bucket_delete(opened, &wanted, &raw))
  return true;
}

bool agent_kv_increment(const char *name, const char *key, int64_t delta, int64_t *sum, agent_error *error) {
  IN_BUCKET(wasi_keyvalue_0_2_0_draft2_atomics_increment(opened, &wanted, delta, sum, &raw))
  return true;
}

bool agent_cache_get(const char *key, agent_bytes *value, agent_error *error) {
  agent_string_t wanted = string(key);
  agent_option_list_u8_t gotten;
  agent_runtime_cache_error_t raw;
  if (!agent_runtime_cache_get(&wanted, &gotten, &raw)) return cache_failed(error, &raw);
  *value = found(&gotten);
  return true;
}

bool agent_cache_set(const char *key, const void *value, size_t length, uint64_t ttl_ms, agent_error *error) {
  agent_string_t wanted = string(key);
  agent_list_u8_t bytes = list(value, length);
  agent_runtime_cache_error_t raw;
  bool works = agent_runtime_cache_set(&wanted, &bytes, ttl_ms == 0 ? NULL : &ttl_ms, &raw);
  return works ? true : cache_failed(error, &raw);
}

bool agent_cache_delete(const char *key, agent_error *error) {
  agent_string_t wanted = string(key);
  bool was_there;
  agent_runtime_cache_error_t raw;
  return agent_runtime_cache_delete(&wanted, &was_there, &raw) ? true : cache_failed(error, &raw);
}

bool agent_cache_increment(const char *key, int64_t delta, int64_t *sum, agent_error *error) {
  agent_string_t wanted = string(key);
  agent_runtime_cache_error_t raw;
  return agent_runtime_cache_increment(&wanted, delta, sum, &raw) ? true : cache_failed(error, &raw);
}

/* SQL */

agent_value agent_null(void) { return (agent_value){.kind = AGENT_NULL}; }
agent_value agent_bool(bool value) { return (agent_value){.kind = AGENT_BOOL, .boolean = value}; }
agent_value agent_int(int64_t value) { return (agent_value){.kind = AGENT_INT, .integer = value}; }
agent_value agent_double(double value) { return (agent_value){.kind = AGENT_DOUBLE, .number = value}; }
agent_value agent_string(const char *value) {
  return (agent_value){.kind = AGENT_TEXT, .bytes = {value, strlen(value)}};
}
agent_value agent_binary(const void *value, size_t length) {
  return (agent_value){.kind = AGENT_BINARY, .bytes = {value, length}};
}

struct agent_rows {
  agent_runtime_sql_borrow_cursor_t cursor;
  agent_runtime_sql_list_row_t batch;
  size_t next, column_count;
  const char **columns;
  agent_value *row;
};

static agent_runtime_sql_list_parameter_value_t lowered(const agent_value *values, size_t count) {
  agent_runtime_sql_parameter_value_t *raw = allocated(count * sizeof *raw);
  for (size_t i = 0; i < count; i++) {
    switch (values[i].kind) {
      case AGENT_BOOL:
        raw[i].tag = AGENT_RUNTIME_SQL_PARAMETER_VALUE_BOOLEAN;
        raw[i].val.boolean = values[i].boolean;
        break;
      case AGENT_INT:
        raw[i].tag = AGENT_RUNTIME_SQL_PARAMETER_VALUE_INT64;
        raw[i].val.int64 = values[i].integer;
        break;
      case AGENT_DOUBLE:
        raw[i].tag = AGENT_RUNTIME_SQL_PARAMETER_VALUE_FLOATING64;
        raw[i].val.floating64 = values[i].number;
        break;
      case AGENT_TEXT:
        raw[i].tag = AGENT_RUNTIME_SQL_PARAMETER_VALUE_STR;
        raw[i].val.str = (agent_string_t){(uint8_t *)values[i].bytes.bytes, values[i].bytes.length};
        break;
      case AGENT_BINARY:
        raw[i].tag = AGENT_RUNTIME_SQL_PARAMETER_VALUE_BINARY;
        raw[i].val.binary = list(values[i].bytes.bytes, values[i].bytes.length);
        break;
      default:
        raw[i].tag = AGENT_RUNTIME_SQL_PARAMETER_VALUE_DB_NULL;
    }
  }
  return (agent_runtime_sql_list_parameter_value_t){raw, count};
}

static agent_value value_of(agent_bytes said) { return (agent_value){.kind = AGENT_TEXT, .bytes = said}; }

static agent_value raised(const agent_runtime_sql_db_value_t *raw) {
  switch (raw->tag) {
    case AGENT_RUNTIME_SQL_DB_VALUE_BOOLEAN:
      return agent_bool(raw->val.boolean);
    case AGENT_RUNTIME_SQL_DB_VALUE_INT8:
      return agent_int(raw->val.int8);
    case AGENT_RUNTIME_SQL_DB_VALUE_INT16:
      return agent_int(raw->val.int16);
    case AGENT_RUNTIME_SQL_DB_VALUE_INT32:
      return agent_int(raw->val.int32);
    case AGENT_RUNTIME_SQL_DB_VALUE_INT64:
    case AGENT_RUNTIME_SQL_DB_VALUE_TIMESTAMP:
      return agent_int(raw->val.int64);
    case AGENT_RUNTIME_SQL_DB_VALUE_FLOATING32:
      return agent_double(raw->val.floating32);
    case AGENT_RUNTIME_SQL_DB_VALUE_FLOATING64:
      return agent_double(raw->val.floating64);
    case AGENT_RUNTIME_SQL_DB_VALUE_STR:
    case AGENT_RUNTIME_SQL_DB_VALUE_UUID:
    case AGENT_RUNTIME_SQL_DB_VALUE_DECIMAL:
      return (agent_value){.kind = AGENT_TEXT, .bytes = kept(raw->val.str.ptr, raw->val.str.len)};
    case AGENT_RUNTIME_SQL_DB_VALUE_JSONB:
      return (agent_value){.kind = AGENT_TEXT, .bytes = kept(raw->val.jsonb.ptr, raw->val.jsonb.len)};
    case AGENT_RUNTIME_SQL_DB_VALUE_BINARY:
    case AGENT_RUNTIME_SQL_DB_VALUE_UNSUPPORTED:
      return (agent_value){.kind = AGENT_BINARY, .bytes = kept(raw->val.binary.ptr, raw->val.binary.len)};
    case AGENT_RUNTIME_SQL_DB_VALUE_DATE: {
      const agent_runtime_sql_date_t *date = &raw->val.date;
      return value_of(printed("%04d-%02d-%02d", (int)date->f0, (int)date->f1, (int)date->f2));
    }
    case AGENT_RUNTIME_SQL_DB_VALUE_TIME: {
      const agent_runtime_sql_time_t *time = &raw->val.time;
      return value_of(printed("%02d:%02d:%02d", (int)time->f0, (int)time->f1, (int)time->f2));
    }
    case AGENT_RUNTIME_SQL_DB_VALUE_DATETIME: {
      const agent_runtime_sql_datetime_t *when = &raw->val.datetime;
      return value_of(printed("%04d-%02d-%02dT%02d:%02d:%02d", (int)when->f0, (int)when->f1, (int)when->f2,
                              (int)when->f3, (int)when->f4, (int)when->f5));
    }
    default:
      /* Arrays have no form here: select their elements, or cast them to text. */
      return agent_null();
  }
}

bool agent_open(const char *name, agent_database *database, agent_error *error) {
  agent_string_t wanted = string(name);
  agent_runtime_sql_own_connection_t connection;
  agent_runtime_sql_error_t raw;
  if (!agent_runtime_sql_static_connection_open(&wanted, &connection, &raw)) return sql_failed(error, &raw);
  database->handle = connection.__handle;
  return true;
}

bool agent_execute(agent_database database, const char *statement, const agent_value *parameters, size_t count,
                   uint64_t *affected, agent_error *error) {
  agent_runtime_sql_borrow_connection_t connection = {database.handle};
  agent_string_t said = string(statement);
  agent_runtime_sql_list_parameter_value_t values = lowered(parameters, count);
  uint64_t rows;
  agent_runtime_sql_error_t raw;
  if (!agent_runtime_sql_method_connection_execute(connection, &said, &values, &rows, &raw)) {
    return sql_failed(error, &raw);
  }
  if (affected != NULL) *affected = rows;
  return true;
}

bool agent_query(agent_database database, const char *statement, const agent_value *parameters, size_t count,
                 agent_rows **rows, agent_error *error) {
  agent_runtime_sql_borrow_connection_t connection = {database.handle};
  agent_string_t said = string(statement);
  agent_runtime_sql_list_parameter_value_t values = lowered(parameters, count);
  agent_runtime_sql_own_cursor_t cursor;
  agent_runtime_sql_error_t raw;
  if (!agent_runtime_sql_method_connection_query(connection, &said, &values, &cursor, &raw)) {
    return sql_failed(error, &raw);
  }
  agent_rows *made = allocated(sizeof *made);
  made->cursor = agent_runtime_sql_borrow_cursor(cursor);
  agent_runtime_sql_list_column_t columns;
  agent_runtime_sql_method_cursor_columns(made->cursor, &columns);
  made->column_count = columns.len;
  made->columns = allocated(columns.len * sizeof *made->columns);
  made->row = allocated(columns.len * sizeof *made->row);
  for (size_t i = 0; i < columns.len; i++) made->columns[i] = text(columns.ptr[i].name);
  *rows = made;
  return true;
}

bool agent_next(agent_rows *rows, const agent_value **row, agent_error *error) {
  if (rows->next == rows->batch.len) {
    agent_runtime_sql_error_t raw;
    rows->next = 0;
    rows->batch.len = 0;
    if (!agent_runtime_sql_method_cursor_next(rows->cursor, ROWS_PER_CALL, &rows->batch, &raw)) {
      return sql_failed(error, &raw);
    }
  }
  *row = NULL;
  if (rows->next == rows->batch.len) return true;
  const agent_runtime_sql_row_t *raw = &rows->batch.ptr[rows->next++];
  for (size_t i = 0; i < rows->column_count && i < raw->len; i++) rows->row[i] = raised(&raw->ptr[i]);
  *row = rows->row;
  return true;
}

size_t agent_column_count(const agent_rows *rows) { return rows->column_count; }
const char *agent_column(const agent_rows *rows, size_t index) { return rows->columns[index]; }
