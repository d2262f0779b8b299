// Does what every SDK must be able to; see the scenarios beside it.

import {
  agent, Bucket, cache, config, Database, http, isCancelled, log, Output, readFile, Reject, Retry, secret, submit, writeFile,
} from "./agent-sdk.js";

const INSERT = "INSERT INTO notes (text, number) VALUES ($1, $2)";

const deeds = {
  echo: (task) => new Output(task.body, task.contentType),
  count: (task) => `${task.body.length} bytes, sum ${task.body.reduce((sum, byte) => sum + byte, 0)}`,
  header: (task) => task.header("colour"),
  reject(task) {
    throw new Reject(task.text());
  },
  retry(task) {
    throw new Retry(task.text());
  },
  "retry-after"(task) {
    throw new Retry(task.text(), 90_000);
  },
  "second-attempt"(task) {
    if (task.attempt < 2) throw new Retry("not yet");
    return `attempt ${task.attempt}`;
  },
  trap() {
    throw new TypeError("a mistake");
  },
  log: (task) => log.info(task.text()),
  spin() {
    for (;;);
  },
  file() {
    const text = readFile("/data/in.txt");
    writeFile("/data/out.txt", text);
    return text;
  },
  http(task) {
    const response = http.get(task.text());
    return `${response.status} ${response.text()}`;
  },
  "http-post"(task) {
    const response = http.post(task.text(), "tea", { headers: [["content-type", "text/plain"]] }).ok();
    return `order ${response.header("X-Order")}`;
  },
  config: (task) => config(task.text()),
  secret(task) {
    const value = secret(task.text());
    log.info(`the key is ${value}`);
    return `${value.length} characters`;
  },
  "key-value": (task) => String(new Bucket().increment(task.text(), 2)),
  "other-bucket": () => String(new Bucket("other").get("key")),
  cache(task) {
    cache.set("key", task.body, 60_000);
    return cache.get("key");
  },
  "cache-ttl"(task) {
    cache.set("key", task.body, 5);
    while (cache.get("key") !== undefined);
    return "forgotten";
  },
  cancel() {
    cache.set("key", "half done");
    while (!isCancelled());
    log.info("stopped tidily");
  },
  sql(task) {
    const database = new Database();
    database.execute(INSERT, task.text(), 7);
    return database.queryOne("SELECT text, number, number < $1 AS fits, NULL::text IS NOT NULL AS nothing FROM notes", 8);
  },
  "sql-reject"(task) {
    new Database().execute(INSERT, task.text(), 7);
    throw new Reject("on second thoughts");
  },
  submit(task) {
    submit("echo", task.body);
  },
  "submit-reject"(task) {
    submit("echo", task.body);
    throw new Reject("on second thoughts");
  },
};

export const handler = agent((task) => {
  const deed = deeds[task.header("do")];
  if (!deed) throw new Reject(`this SDK does not do ${task.header("do")}`);
  return deed(task);
});
