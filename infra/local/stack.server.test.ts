/**
 * The stack as it really runs. One stack is shared by the tests below, which go from gentle to rough.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer, connect as dial, type Server } from "node:net";
import { join, resolve } from "node:path";
import { Redis } from "ioredis";
import { Kafka, logLevel } from "kafkajs";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isAlive } from "../../tests/processes.ts";
import { StackUnavailable, serverNames } from "./ladder.ts";
import { freePort } from "./ports.ts";
import { type Stack, startStack } from "./stack.ts";

const projectRoot = resolve(import.meta.dirname, "..", "..");
/** The paths to Java and Maven, and nothing that would name a server. */
const env = Object.fromEntries(
  // biome-ignore lint/style/noProcessEnv: these tests start real programs, which need the PATH.
  Object.entries(process.env).filter(([name]) => !/^SEALPOST_(KAFKA|REGISTRY|POSTGRES|REDIS|STACK)/.test(name)),
);

async function untilGone(pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + 15_000;
  while (pids.some(isAlive) && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 50));
}

function kafkaAt(broker: string): Kafka {
  return new Kafka({ brokers: [broker], logLevel: logLevel.NOTHING });
}

async function query(stack: Stack, text: string): Promise<readonly unknown[]> {
  const client = new pg.Client({ connectionString: stack.urls.postgresUrl });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

describe("a started stack", () => {
  let stack: Stack;
  let proxy: Server;
  let proxyPort: number;
  let proxied = 0;
  beforeAll(async () => {
    proxyPort = await freePort(new Set());
    stack = await startStack({ env, ephemeral: true, kafkaAdvertisedPorts: [proxyPort] });
    proxy = createServer((socket) => {
      proxied += 1;
      const onward = dial(stack.kafkaListeners[0]?.listenPort ?? 0, "127.0.0.1");
      socket.pipe(onward).pipe(socket);
      for (const end of [socket, onward]) end.on("error", () => socket.destroy());
    });
    proxy.listen(proxyPort, "127.0.0.1");
    await once(proxy, "listening");
  });
  afterAll(async () => {
    proxy.close();
    await stack.stop();
  });

  test("does not create a topic by accident, and stamps records with the time of their append", async () => {
    const admin = kafkaAt(stack.urls.kafkaBrokers[0] ?? "").admin();
    await admin.connect();
    await admin.createTopics({ topics: [{ topic: "declared" }] });
    await expect(admin.fetchTopicMetadata({ topics: ["undeclared"] })).rejects.toThrow();
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [{ type: 2, name: "declared", configNames: ["message.timestamp.type"] }],
    });
    expect(resources[0]?.configEntries[0]?.configValue).toBe("LogAppendTime");
    await admin.disconnect();
  });

  test("sends a client that came in by a proxy to the proxy again", async () => {
    const admin = kafkaAt(`127.0.0.1:${proxyPort}`).admin();
    await admin.connect();
    const { brokers } = await admin.describeCluster();
    expect(brokers.map(({ port }) => port)).toEqual([proxyPort]);
    expect(proxied).toBeGreaterThan(0);
    await admin.disconnect();
  });

  test("keeps every server's data and address through a kill", async () => {
    const before = stack.urls;
    await query(stack, "CREATE TABLE kept AS SELECT 7 AS n");
    const redis = new Redis(before.redisUrl);
    await redis.set("kept", "7");
    redis.disconnect();
    const answer = await fetch(`${before.registryUrl}/subjects/kept-value/versions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ schema: '"string"' }),
    });
    const { id } = (await answer.json()) as { id: number };
    const producer = kafkaAt(before.kafkaBrokers[0] ?? "").producer();
    await producer.connect();
    await producer.send({ topic: "declared", acks: -1, messages: [{ value: "7" }] });
    await producer.disconnect();

    const pids = stack.servers.flatMap((server) => server.pids);
    expect(pids).toHaveLength(serverNames.length);
    await Promise.all(serverNames.map((name) => stack.kill(name)));
    expect(pids.filter(isAlive)).toEqual([]);
    expect(serverNames.map((name) => stack.pid(name))).toEqual([null, null, null, null]);
    await Promise.all(serverNames.map((name) => stack.restart(name)));

    expect(stack.urls).toEqual(before);
    expect(await query(stack, "SELECT n FROM kept")).toEqual([{ n: 7 }]);
    const again = new Redis(before.redisUrl);
    expect(await again.get("kept")).toBe("7");
    again.disconnect();
    expect(await (await fetch(`${before.registryUrl}/schemas/ids/${id}`)).json()).toMatchObject({ schema: '"string"' });
    const admin = kafkaAt(before.kafkaBrokers[0] ?? "").admin();
    await admin.connect();
    expect((await admin.fetchTopicOffsets("declared"))[0]?.high).toBe("1");
    await admin.disconnect();
  });

  test("is used as it is by a second one that is given its URLs, and survives that one", async () => {
    const second = await startStack({
      env: {
        SEALPOST_KAFKA_BROKERS: stack.urls.kafkaBrokers.join(","),
        SEALPOST_REGISTRY_URL: stack.urls.registryUrl,
        SEALPOST_POSTGRES_URL: stack.urls.postgresUrl,
        SEALPOST_REDIS_URL: stack.urls.redisUrl,
      },
      ephemeral: true,
    });
    expect(second.urls).toEqual(stack.urls);
    expect(second.servers.map(({ way }) => way)).toEqual(["given", "given", "given", "given"]);
    await expect(second.kill("redis")).rejects.toThrow("not ours");
    await second.stop();
    expect(await query(stack, "SELECT 1 AS n")).toEqual([{ n: 1 }]);
  });

  test("refuses a second one on the same data", async () => {
    await expect(startStack({ env, dataDir: stack.dataDir })).rejects.toThrow(/already runs on .* \(process \d+\)/);
  });

  test("leaves no process and no data behind when it is stopped", async () => {
    const pids = stack.servers.flatMap((server) => server.pids);
    await stack.stop();
    expect(pids.filter(isAlive)).toEqual([]);
    expect(existsSync(stack.dataDir)).toBe(false);
  });
});

test("without any way to a server the message names all three", async () => {
  const bare = {
    PATH: "/nowhere",
    SEALPOST_STACK_WAY: "local",
    SEALPOST_CACHE_DIR: join(projectRoot, ".sealpost", "empty"),
  };
  const failure = await startStack({ env: bare, ephemeral: true }).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(StackUnavailable);
  const { message } = failure as StackUnavailable;
  for (const words of [
    "Kafka could not",
    "schema registry could not",
    "Redis could not",
    "Java 17",
    "mvn",
    "redis-server",
  ]) {
    expect(message).toContain(words);
  }
  expect(message.match(/three ways/g)?.length).toBeGreaterThanOrEqual(3);
});

describe("npm run stack", () => {
  interface Printed {
    readonly servers: readonly { readonly pids: readonly number[] }[];
    readonly dataDir: string;
  }
  async function run(): Promise<{ child: ChildProcess; printed: Printed }> {
    const child = spawn(process.execPath, ["bin/stack.ts", "--json", "--ephemeral"], {
      cwd: projectRoot,
      env,
      stdio: ["ignore", "pipe", "ignore"],
    });
    let text = "";
    for await (const chunk of child.stdout ?? []) {
      text += String(chunk);
      if (text.endsWith("\n")) break;
    }
    return { child, printed: JSON.parse(text) as Printed };
  }

  test.each(["SIGTERM", "SIGKILL"] as const)("leaves no process and no data behind after %s", async (signal) => {
    const { child, printed } = await run();
    const pids = printed.servers.flatMap((server) => server.pids);
    expect(pids).toHaveLength(serverNames.length);
    expect(pids.every(isAlive)).toBe(true);
    child.kill(signal);
    await untilGone(pids);
    expect(pids.filter(isAlive)).toEqual([]);
    const deadline = Date.now() + 5_000;
    while (existsSync(printed.dataDir) && Date.now() < deadline) await new Promise((wake) => setTimeout(wake, 50));
    expect(existsSync(printed.dataDir)).toBe(false);
  });
});
