/* See agent_sdk.h. Beneath are the bindings that wit-bindgen makes of the interface. */

#include "agent_sdk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bindings/agent.h"

enum { DONE, OUTPUT, RETRY, RETRY_AFTER, REJECT };

#define ROWS_PER_CALL 256
/* The largest part of a body that one blocking-write-and-flush takes, by the definition of wasi:io. */
#define WRITE_BYTES_MAX 4096
/* How much of a response one call reads. */
#define READ_BYTES 65536
#define NS_PER_MS UINT64_C(1000000)

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

/* HTTP */

/* Names of wasi:http, in the order in which it has them. */
static const char *const http_methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"};
static const char *const http_errors[] = {
    "DNS-timeout", "DNS-error", "destination-not-found", "destination-unavailable", "destination-IP-prohibited",
    "destination-IP-unroutable", "connection-refused", "connection-terminated", "connection-timeout",
    "connection-read-timeout", "connection-write-timeout", "connection-limit-reached", "TLS-protocol-error",
    "TLS-certificate-error", "TLS-alert-received", "HTTP-request-denied", "HTTP-request-length-required",
    "HTTP-request-body-size", "HTTP-request-method-invalid", "HTTP-request-URI-invalid", "HTTP-request-URI-too-long",
    "HTTP-request-header-section-size", "HTTP-request-header-size", "HTTP-request-trailer-section-size",
    "HTTP-request-trailer-size", "HTTP-response-incomplete", "HTTP-response-header-section-size",
    "HTTP-response-header-size", "HTTP-response-body-size", "HTTP-response-trailer-section-size",
    "HTTP-response-trailer-size", "HTTP-response-transfer-coding", "HTTP-response-content-coding",
    "HTTP-response-timeout", "HTTP-upgrade-failed", "HTTP-protocol-error", "loop-detected", "configuration-error",
    "internal-error"};

/* The parts of a URL that wasi:http takes one by one. */
typedef struct {
  bool is_tls;
  agent_string_t authority, path_with_query;
} http_target;

static bool http_said(agent_error *error, bool is_transient, agent_bytes said) {
  return failed(error, "http", (agent_string_t){(uint8_t *)said.bytes, said.length}, is_transient);
}

static bool http_failed(agent_error *error, const http_target *target, const wasi_http_types_error_code_t *raw) {
  switch (raw->tag) {
    case WASI_HTTP_TYPES_ERROR_CODE_HTTP_REQUEST_DENIED:
    case WASI_HTTP_TYPES_ERROR_CODE_DESTINATION_IP_PROHIBITED:
      return http_said(error, false,
                       printed("the request to %.*s was denied: add it to allowed_outbound_hosts under [grants] in agent.toml",
                               (int)target->authority.len, (const char *)target->authority.ptr));
    case WASI_HTTP_TYPES_ERROR_CODE_DNS_TIMEOUT:
    case WASI_HTTP_TYPES_ERROR_CODE_DNS_ERROR:
    case WASI_HTTP_TYPES_ERROR_CODE_DESTINATION_NOT_FOUND:
    case WASI_HTTP_TYPES_ERROR_CODE_DESTINATION_UNAVAILABLE:
    case WASI_HTTP_TYPES_ERROR_CODE_DESTINATION_IP_UNROUTABLE:
    case WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_REFUSED:
    case WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_TERMINATED:
    case WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_TIMEOUT:
    case WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_READ_TIMEOUT:
    case WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_WRITE_TIMEOUT:
    case WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_LIMIT_REACHED:
    case WASI_HTTP_TYPES_ERROR_CODE_HTTP_RESPONSE_INCOMPLETE:
    case WASI_HTTP_TYPES_ERROR_CODE_HTTP_RESPONSE_TIMEOUT:
      return http_said(error, true, printed("%s", http_errors[raw->tag]));
    default:
      return http_said(error, false, printed("%s", http_errors[raw->tag]));
  }
}

static bool http_target_of(const char *url, http_target *target) {
  target->is_tls = strncmp(url, "https://", strlen("https://")) == 0;
  if (!target->is_tls && strncmp(url, "http://", strlen("http://")) != 0) return false;
  const char *authority = strstr(url, "://") + strlen("://");
  const char *path = authority + strcspn(authority, "/?#");
  target->authority = (agent_string_t){(uint8_t *)authority, (size_t)(path - authority)};
  /* A fragment is for the caller, never for the server. */
  agent_bytes whole = printed("%s%.*s", *path == '/' ? "" : "/", (int)strcspn(path, "#"), path);
  target->path_with_query = (agent_string_t){(uint8_t *)whole.bytes, whole.length};
  return target->authority.len > 0;
}

static wasi_http_types_method_t http_method_of(const char *name) {
  for (uint8_t i = 0; i < sizeof http_methods / sizeof *http_methods; i++) {
    if (strcmp(name, http_methods[i]) == 0) return (wasi_http_types_method_t){.tag = i};
  }
  return (wasi_http_types_method_t){.tag = WASI_HTTP_TYPES_METHOD_OTHER, .val.other = string(name)};
}

/* A request without its body. */
static bool http_begun(const agent_http_request *request, http_target *target,
                       wasi_http_types_own_outgoing_request_t *begun, agent_error *error) {
  if (!http_target_of(request->url, target)) {
    return http_said(error, false, printed("%s is no URL of http or https", request->url));
  }
  wasi_http_types_tuple2_field_name_field_value_t *entries = allocated(request->header_count * sizeof *entries);
  for (size_t i = 0; i < request->header_count; i++) {
    const agent_pair *header = &request->headers[i];
    entries[i].f0 = string(header->name);
    entries[i].f1 = (wasi_http_types_field_value_t){(uint8_t *)header->value, strlen(header->value)};
  }
  wasi_http_types_list_tuple2_field_name_field_value_t headers = {entries, request->header_count};
  wasi_http_types_own_fields_t fields;
  wasi_http_types_header_error_t raw;
  bool works = wasi_http_types_static_fields_from_list(&headers, &fields, &raw);
  free(entries);
  if (!works) return http_said(error, false, printed("a header is not valid, or is the host's to set"));
  *begun = wasi_http_types_constructor_outgoing_request(fields);
  wasi_http_types_borrow_outgoing_request_t opened = wasi_http_types_borrow_outgoing_request(*begun);
  wasi_http_types_method_t method = http_method_of(request->method == NULL ? "GET" : request->method);
  wasi_http_types_scheme_t scheme = {
      .tag = target->is_tls ? WASI_HTTP_TYPES_SCHEME_HTTPS : WASI_HTTP_TYPES_SCHEME_HTTP};
  if (wasi_http_types_method_outgoing_request_set_method(opened, &method) &&
      wasi_http_types_method_outgoing_request_set_scheme(opened, &scheme) &&
      wasi_http_types_method_outgoing_request_set_authority(opened, &target->authority) &&
      wasi_http_types_method_outgoing_request_set_path_with_query(opened, &target->path_with_query)) {
    return true;
  }
  wasi_http_types_outgoing_request_drop_own(*begun);
  return http_said(error, false, printed("the method or the URL %s is not valid", request->url));
}

/* Whoever refuses the request, or answers early, does not read the body: what they say counts. */
static void http_write(wasi_http_types_own_outgoing_body_t body, const void *bytes, size_t length) {
  wasi_http_types_own_output_stream_t stream;
  if (length > 0 && wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body), &stream)) {
    bool works = true;
    for (size_t at = 0; works && at < length; at += WRITE_BYTES_MAX) {
      size_t rest = length - at;
      agent_list_u8_t part = list((const char *)bytes + at, rest < WRITE_BYTES_MAX ? rest : WRITE_BYTES_MAX);
      wasi_io_streams_stream_error_t raw;
      works = wasi_io_streams_method_output_stream_blocking_write_and_flush(wasi_io_streams_borrow_output_stream(stream),
                                                                            &part, &raw);
      if (!works) wasi_io_streams_stream_error_free(&raw);
    }
    wasi_io_streams_output_stream_drop_own(stream);
  }
  wasi_http_types_error_code_t raw;
  if (!wasi_http_types_static_outgoing_body_finish(body, NULL, &raw)) wasi_http_types_error_code_free(&raw);
}

static bool http_read_body(wasi_http_types_borrow_incoming_body_t body, agent_bytes *whole, agent_error *error) {
  wasi_http_types_own_input_stream_t stream;
  if (!wasi_http_types_method_incoming_body_stream(body, &stream)) {
    return http_said(error, false, printed("the response was taken already"));
  }
  char *bytes = allocated(1);
  size_t length = 0;
  agent_list_u8_t part;
  wasi_io_streams_stream_error_t raw;
  while (wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(stream), READ_BYTES, &part,
                                                           &raw)) {
    bytes = realloc(bytes, length + part.len + 1);
    if (bytes == NULL) abort();
    if (part.len > 0) memcpy(bytes + length, part.ptr, part.len);
    length += part.len;
    agent_list_u8_free(&part);
  }
  bytes[length] = '\0';
  *whole = (agent_bytes){bytes, length};
  bool is_whole = raw.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED;
  wasi_io_streams_stream_error_free(&raw);
  wasi_io_streams_input_stream_drop_own(stream);
  return is_whole ? true : http_said(error, true, printed("the response broke off"));
}

static bool http_read(wasi_http_types_own_incoming_response_t own, agent_http_response *response, agent_error *error) {
  wasi_http_types_borrow_incoming_response_t opened = wasi_http_types_borrow_incoming_response(own);
  response->status = wasi_http_types_method_incoming_response_status(opened);
  wasi_http_types_own_headers_t fields = wasi_http_types_method_incoming_response_headers(opened);
  wasi_http_types_list_tuple2_field_name_field_value_t entries;
  wasi_http_types_method_fields_entries(wasi_http_types_borrow_fields(fields), &entries);
  wasi_http_types_fields_drop_own(fields);
  agent_pair *headers = allocated(entries.len * sizeof *headers);
  for (size_t i = 0; i < entries.len; i++) {
    headers[i] = (agent_pair){text(entries.ptr[i].f0), kept(entries.ptr[i].f1.ptr, entries.ptr[i].f1.len).bytes};
  }
  response->headers = headers;
  response->header_count = entries.len;
  wasi_http_types_list_tuple2_field_name_field_value_free(&entries);
  wasi_http_types_own_incoming_body_t body;
  bool works = wasi_http_types_method_incoming_response_consume(opened, &body);
  if (works) {
    works = http_read_body(wasi_http_types_borrow_incoming_body(body), &response->body, error);
    wasi_http_types_incoming_body_drop_own(body);
  } else {
    http_said(error, false, printed("the response was taken already"));
  }
  wasi_http_types_incoming_response_drop_own(own);
  return works;
}

bool agent_http(const agent_http_request *request, agent_http_response *response, agent_error *error) {
  http_target target;
  wasi_http_types_own_outgoing_request_t begun;
  *response = (agent_http_response){0};
  if (!http_begun(request, &target, &begun, error)) return false;
  wasi_http_types_own_outgoing_body_t body;
  if (!wasi_http_types_method_outgoing_request_body(wasi_http_types_borrow_outgoing_request(begun), &body)) abort();
  wasi_http_types_own_request_options_t options;
  if (request->timeout_ms > 0) {
    options = wasi_http_types_constructor_request_options();
    wasi_http_types_duration_t timeout = request->timeout_ms * NS_PER_MS;
    wasi_http_types_borrow_request_options_t opened = wasi_http_types_borrow_request_options(options);
    /* A host that does not support a timeout says so; the task's own timeout then holds alone. */
    wasi_http_types_method_request_options_set_connect_timeout(opened, &timeout);
    wasi_http_types_method_request_options_set_first_byte_timeout(opened, &timeout);
  }
  wasi_http_outgoing_handler_own_future_incoming_response_t future;
  wasi_http_types_error_code_t code;
  if (!wasi_http_outgoing_handler_handle(begun, request->timeout_ms > 0 ? &options : NULL, &future, &code)) {
    wasi_http_types_outgoing_body_drop_own(body);
    return http_failed(error, &target, &code);
  }
  http_write(body, request->body, request->body_length);
  wasi_http_types_borrow_future_incoming_response_t waiting = wasi_http_types_borrow_future_incoming_response(future);
  wasi_http_types_own_pollable_t answered = wasi_http_types_method_future_incoming_response_subscribe(waiting);
  wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(answered));
  wasi_io_poll_pollable_drop_own(answered);
  wasi_http_types_result_result_own_incoming_response_error_code_void_t result;
  bool is_there = wasi_http_types_method_future_incoming_response_get(waiting, &result) && !result.is_err;
  wasi_http_types_future_incoming_response_drop_own(future);
  if (!is_there) return http_said(error, false, printed("the host gave no response"));
  if (result.val.ok.is_err) return http_failed(error, &target, &result.val.ok.val.err);
  return http_read(result.val.ok.val.ok, response, error);
}

bool agent_http_ok(const agent_http_response *response, agent_error *error) {
  uint16_t status = response->status;
  if (status >= 200 && status < 300) return true;
  bool is_transient = status == 408 || status == 425 || status == 429 || status >= 500;
  return http_said(error, is_transient, printed("the response has the status %d", status));
}

const char *agent_http_header(const agent_http_response *response, const char *name) {
  for (size_t i = 0; i < response->header_count; i++) {
    if (strcasecmp(response->headers[i].name, name) == 0) return response->headers[i].value;
  }
  return NULL;
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
