"""Does what every SDK must be able to; see the scenarios beside it."""

import datetime

from agent_sdk import Bucket, Database, Output, Reject, Retry, agent, cache, config, http, is_cancelled, log, secret, submit


@agent
def handle(task):
    match task.header("do"):
        case "echo":
            return Output(task.body, task.content_type)
        case "count":
            return f"{len(task.body)} bytes, sum {sum(task.body)}"
        case "header":
            return task.header("colour")
        case "reject":
            raise Reject(task.text())
        case "retry":
            raise Retry(task.text())
        case "retry-after":
            raise Retry(task.text(), datetime.timedelta(seconds=90))
        case "second-attempt":
            if task.attempt < 2:
                raise Retry("not yet")
            return f"attempt {task.attempt}"
        case "trap":
            raise KeyError("a mistake")
        case "log":
            log.info(task.text())
        case "spin":
            while True:
                pass
        case "file":
            with open("/data/in.txt") as file:
                text = file.read()
            with open("/data/out.txt", "w") as file:
                file.write(text)
            return text
        case "config":
            return config(task.text())
        case "secret":
            value = secret(task.text())
            log.info(f"the key is {value}")
            return f"{len(value)} characters"
        case "key-value":
            return str(Bucket().increment(task.text(), 2))
        case "other-bucket":
            return str(Bucket("other").get("key"))
        case "cache":
            cache.set("key", task.body, datetime.timedelta(minutes=1))
            return cache.get("key")
        case "cache-ttl":
            cache.set("key", task.body, datetime.timedelta(milliseconds=5))
            while cache.get("key") is not None:
                pass
            return "forgotten"
        case "cancel":
            cache.set("key", "half done")
            while not is_cancelled():
                pass
            log.info("stopped tidily")
        case "sql":
            database = Database()
            database.execute("INSERT INTO notes (text, number) VALUES ($1, $2)", task.text(), 7)
            statement = "SELECT text, number, number < $1 AS fits, NULL::text IS NOT NULL AS nothing FROM notes"
            return database.query_one(statement, 8)
        case "sql-reject":
            Database().execute("INSERT INTO notes (text, number) VALUES ($1, $2)", task.text(), 7)
            raise Reject("on second thoughts")
        case "submit":
            submit("echo", task.body)
        case "submit-reject":
            submit("echo", task.body)
            raise Reject("on second thoughts")
        case "http":
            response = http.get(task.text())
            return f"{response.status} {response.text()}"
        case "http-post":
            response = http.post(task.text(), "tea", headers=[("content-type", "text/plain")]).ok()
            return f"order {response.header('X-Order')}"
        case other:
            raise Reject(f"this SDK does not do {other}")
