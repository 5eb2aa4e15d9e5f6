/**
 * `npm run stack`: the four servers for a developer's machine, until Ctrl-C.
 *
 * Promises: what it prints can be pasted into a shell or an .env file; with --json, stdout holds one line of JSON and
 * nothing else. The data stays in `.sealpost/stack`, unless --ephemeral.
 */
import { writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { StackUnavailable, withoutPassword } from "../infra/local/ladder.ts";
import { type ProgressDisplay, showProgress, silent } from "../infra/local/progress.ts";
import { type Stack, startStack } from "../infra/local/stack.ts";

const usage = `Usage: npm run stack -- [--json] [--ephemeral] [--data DIR]

Starts Kafka, a schema registry, PostgreSQL and Redis, and stays until Ctrl-C.

  --json        print one line of JSON to stdout, no progress
  --ephemeral   a stack of its own, whose data is removed at the end
  --data DIR    keep the data in DIR instead of .sealpost/stack

Each server is, by the first way that works: the one named in the environment
(SEALPOST_KAFKA_BROKERS, SEALPOST_REGISTRY_URL, SEALPOST_POSTGRES_URL,
SEALPOST_REDIS_URL), a container, or a local process. SEALPOST_STACK_WAY
("container" or "local") leaves one of the last two out. SEALPOST_CACHE_DIR
moves the downloaded binaries.
`;

const interrupted = new AbortController();
const asked = Promise.withResolvers<void>();
let timesAsked = 0;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    timesAsked += 1;
    interrupted.abort();
    asked.resolve();
    // The watcher still ends every server; only the order is lost.
    if (timesAsked > 1) process.exit(130);
  });
}

process.exitCode = await main();

async function main(): Promise<number> {
  const options = readArguments();
  if (options === null) return 2;
  if (options.help) {
    process.stdout.write(usage);
    return 0;
  }
  const display: ProgressDisplay = options.json
    ? { sink: silent, close: () => undefined }
    : showProgress(process.stderr);
  const begun = performance.now();
  let stack: Stack;
  try {
    stack = await startStack({
      env: process.env,
      ephemeral: options.ephemeral,
      progress: display.sink,
      signal: interrupted.signal,
      ...(options.data === undefined ? {} : { dataDir: options.data }),
    });
  } catch (error) {
    display.close();
    if (interrupted.signal.aborted) return 130;
    if (!(error instanceof StackUnavailable)) throw error;
    process.stderr.write(`${error.message}\n`);
    return 1;
  }
  display.close();
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  // Written at once, so that a reader of the pipe never sees half a line.
  writeSync(1, options.json ? `${asJson(stack)}\n` : asText(stack, seconds));
  await asked.promise;
  process.stderr.write("stopping\n");
  await stack.stop();
  return 0;
}

function readArguments() {
  try {
    return parseArgs({
      options: {
        json: { type: "boolean", default: false },
        ephemeral: { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
        data: { type: "string" },
      },
    }).values;
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : ""}\n\n${usage}`);
    return null;
  }
}

function environmentOf({ urls }: Stack): Record<string, string> {
  return {
    SEALPOST_KAFKA_BROKERS: urls.kafkaBrokers.join(","),
    SEALPOST_REGISTRY_URL: urls.registryUrl,
    SEALPOST_POSTGRES_URL: urls.postgresUrl,
    SEALPOST_REDIS_URL: urls.redisUrl,
    // On a developer's machine agents need no owner (docs/identity.md).
    SEALPOST_REGISTRATION: "open",
  };
}

function asJson(stack: Stack): string {
  return JSON.stringify({
    urls: stack.urls,
    env: environmentOf(stack),
    dataDir: stack.dataDir,
    servers: stack.servers,
  });
}

function asText(stack: Stack, seconds: string): string {
  const ways = { given: "from the environment", container: "container", local: "local process" };
  const rows = stack.servers.map(({ name, way, title, url, pids }) => {
    const where = pids.length === 0 ? ways[way] : `${ways[way]} ${pids.join(", ")}`;
    return `# ${name.padEnd(9)} ${title.padEnd(26)} ${where}${way === "given" ? ` (${withoutPassword(url)})` : ""}`;
  });
  const lines = Object.entries(environmentOf(stack)).map(([name, value]) => `export ${name}='${value}'`);
  return ["", ...rows, `# ready in ${seconds} s; data in ${stack.dataDir}; Ctrl-C stops it`, "", ...lines, "", ""].join(
    "\n",
  );
}
