/**
 * The local stack: Kafka, schema registry, PostgreSQL and Redis, each by the first way that works.
 *
 * Promises: when `startStack` returns, all four answered a real question; when it throws, nothing that it started is
 * left running, and the message says for each missing server what was tried. One stack per data folder at a time.
 * Nothing outlives this process, even when it is killed with SIGKILL (see `guard-process.ts`).
 */
import { chmod, mkdir, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { askKafka } from "../../streams/probe.ts";
import { CannotRun, definedOnly, type Workshop } from "./binaries.ts";
import { startContainer, whyNoEngine } from "./containers.ts";
import { type Guard, openGuard } from "./guard.ts";
import {
  type Attempt,
  type Env,
  explainFailure,
  type Failure,
  givenUrl,
  type ServerName,
  StackUnavailable,
  serverNames,
  type Way,
  waysToTry,
  withoutPassword,
} from "./ladder.ts";
import { type KafkaListener, prepareKafka } from "./local-kafka.ts";
import { preparePostgres } from "./local-postgres.ts";
import { prepareRedis } from "./local-redis.ts";
import { prepareRegistry } from "./local-registry.ts";
import { messageOf, type RunningServer, startLocal } from "./local-server.ts";
import { type Lock, tryLock } from "./lock.ts";
import { freePort, isFree } from "./ports.ts";
import { type ProgressSink, silent } from "./progress.ts";
import { askPostgres, askRedis, askRegistry } from "./readiness.ts";

export interface StackOptions {
  readonly env: Env;
  /** Default: `.sealpost/stack` in the project, or a fresh folder under `.sealpost/run` when ephemeral. */
  readonly dataDir?: string;
  readonly progress?: ProgressSink;
  /** The data folder is removed at the end, however the end comes about. */
  readonly ephemeral?: boolean;
  /** Ends a start that is under way. */
  readonly signal?: AbortSignal;
  /** One more Kafka listener for each port: clients that come in by it are told that the broker is at that port. */
  readonly kafkaAdvertisedPorts?: readonly number[];
}

export interface StackUrls {
  readonly kafkaBrokers: readonly string[];
  readonly registryUrl: string;
  readonly postgresUrl: string;
  readonly redisUrl: string;
}

export interface StackServer {
  readonly name: ServerName;
  readonly way: Way;
  readonly title: string;
  readonly url: string;
  /** Empty when it is not a local process. */
  readonly pids: readonly number[];
}

export interface Stack {
  readonly urls: StackUrls;
  readonly dataDir: string;
  /** As of now: pids change with a restart. */
  readonly servers: readonly StackServer[];
  /** In the order of `kafkaAdvertisedPorts`: a proxy listens at `advertisedPort` and forwards to `listenPort`. */
  readonly kafkaListeners: readonly KafkaListener[];
  /** Null when the server does not run or is not a local process. */
  pid(server: ServerName): number | null;
  /** SIGKILL. Resolves when the process is gone. */
  kill(server: ServerName): Promise<void>;
  /** SIGKILL if it runs, then a start on the same ports and data. Resolves when it answers again. */
  restart(server: ServerName): Promise<void>;
  stop(): Promise<void>;
}

const projectRoot = resolve(import.meta.dirname, "..", "..");
/** A server of one's own is running already, so it answers soon or not at all. */
const givenAnswerMsMax = 10_000;

export async function startStack(options: StackOptions): Promise<Stack> {
  const { env, progress = silent, signal } = options;
  const ephemeral = options.ephemeral ?? false;
  const home = join(projectRoot, ".sealpost");
  const cacheDir = resolve(env["SEALPOST_CACHE_DIR"] ?? join(home, "cache"));
  await mkdir(cacheDir, { recursive: true });
  const dataDir = await dataFolder(options, home);

  const guard = await openGuard(definedOnly(env));
  // Without its children the start that is under way comes to its end at once.
  const abandon = () => void guard.close();
  signal?.addEventListener("abort", abandon, { once: true });
  let lock: Lock | null = null;
  const running = new Map<ServerName, RunningServer>();
  async function end(): Promise<void> {
    await Promise.all([...running.values()].map((server) => server.stop(ephemeral)));
    await guard.close();
    await lock?.release();
  }

  try {
    // The watcher holds the lock with us: a start right after a SIGKILL waits for its own servers to be gone.
    lock = await lockData(dataDir, guard);
    if (ephemeral) guard.removeAtEnd(dataDir);
    const shop: Workshop = { guard, env, cacheDir, progress, signal };
    const engineMissing = await whyNoEngine(env);
    const ports = await choosePorts(dataDir, options.kafkaAdvertisedPorts ?? []);
    const failures: Failure[] = [];
    const outcomes = await Promise.allSettled(
      serverNames.map(async (name) => {
        const found = await climb(name, { shop, dataDir, ports, engineMissing, ephemeral });
        if ("attempts" in found) failures.push(found);
        else running.set(name, found);
      }),
    );
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
    if (failures.length > 0) throw new StackUnavailable(explainFailure(failures, env, engineMissing));
    signal?.throwIfAborted();
    return openStack(running, dataDir, ports.extra, end);
  } catch (error) {
    await end();
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", abandon);
  }
}

function openStack(
  running: ReadonlyMap<ServerName, RunningServer>,
  dataDir: string,
  kafkaListeners: readonly KafkaListener[],
  end: () => Promise<void>,
): Stack {
  let ended: Promise<void> | null = null;
  function get(name: ServerName): RunningServer {
    const server = running.get(name);
    if (server === undefined) throw new Error("A server of a started stack is missing.");
    return server;
  }
  return {
    urls: {
      kafkaBrokers: brokersOf(get("kafka").url),
      registryUrl: get("registry").url,
      postgresUrl: get("postgres").url,
      redisUrl: get("redis").url,
    },
    dataDir,
    kafkaListeners,
    get servers() {
      return serverNames.map((name) => {
        const { way, title, url, pids } = get(name);
        return { name, way, title, url, pids: pids() };
      });
    },
    pid: (name) => get(name).pids()[0] ?? null,
    kill: (name) => get(name).kill(),
    restart: (name) => get(name).restart(),
    stop: () => {
      ended ??= end();
      return ended;
    },
  };
}

interface Ports {
  readonly kafka: number;
  readonly kafkaController: number;
  readonly registry: number;
  readonly postgres: number;
  readonly redis: number;
  readonly extra: readonly KafkaListener[];
}

interface Climb {
  readonly shop: Workshop;
  readonly dataDir: string;
  readonly ports: Ports;
  readonly engineMissing: string | null;
  readonly ephemeral: boolean;
}

/** Tries one way after the other. An abort is the only thing it throws. */
async function climb(name: ServerName, at: Climb): Promise<RunningServer | Failure> {
  const attempts: Attempt[] = [];
  for (const way of waysToTry(name, at.shop.env, at.engineMissing)) {
    try {
      return await start(name, way, at);
    } catch (error) {
      at.shop.signal?.throwIfAborted();
      attempts.push({ way, outcome: messageOf(error) });
    }
  }
  return { server: name, attempts };
}

async function start(name: ServerName, way: Way, at: Climb): Promise<RunningServer> {
  if (way === "given") return useGiven(name, at.shop.env);
  if (way === "container") {
    const { kafka, kafkaController, extra, ...ports } = at.ports;
    const kafkaPorts = { main: kafka, controller: kafkaController, extra };
    return startContainer(name, { ...ports, kafka: kafkaPorts }, at.ephemeral ? null : at.dataDir, at.shop.progress);
  }
  return startLocal(await prepare(name, at), at.shop);
}

function prepare(name: ServerName, { shop, dataDir, ports, ephemeral }: Climb) {
  const data = join(dataDir, name);
  const log = join(dataDir, "logs", `${name}.log`);
  if (name === "kafka") {
    return prepareKafka(shop, data, log, { main: ports.kafka, controller: ports.kafkaController, extra: ports.extra });
  }
  if (name === "registry") return prepareRegistry(shop, data, log, ports.registry);
  if (name === "postgres") return preparePostgres(shop, data, log, ports.postgres, ephemeral);
  return prepareRedis(shop, data, log, ports.redis);
}

async function useGiven(name: ServerName, env: Env): Promise<RunningServer> {
  const url = givenUrl(name, env) ?? "";
  const deadline = Date.now() + givenAnswerMsMax;
  for (;;) {
    try {
      await ask(name, url);
      break;
    } catch (error) {
      if (Date.now() > deadline) {
        throw new CannotRun(`nothing answers at ${withoutPassword(url)} (${messageOf(error)}).`);
      }
    }
    await new Promise((wake) => setTimeout(wake, 250));
  }
  const notOurs = async () => {
    throw new CannotRun("it is given by its URL, so it is not ours to kill or restart.");
  };
  return {
    way: "given",
    url,
    title: "your own server",
    pids: () => [],
    kill: notOurs,
    restart: notOurs,
    stop: async () => undefined,
  };
}

function ask(name: ServerName, url: string): Promise<void> {
  if (name === "kafka") return askKafka(brokersOf(url), { coordinator: false });
  if (name === "registry") return askRegistry(url);
  return name === "postgres" ? askPostgres(url) : askRedis(url);
}

function brokersOf(list: string): string[] {
  return list.split(",").map((broker) => broker.trim());
}

async function dataFolder({ dataDir, ephemeral }: StackOptions, home: string): Promise<string> {
  const folder = dataDir === undefined ? null : resolve(dataDir);
  if (folder === null && ephemeral === true) {
    await mkdir(join(home, "run"), { recursive: true });
    const fresh = await mkdtemp(join(home, "run", "stack-"));
    // mkdtemp lets nobody else in, and PostgreSQL may have to run as somebody else.
    await chmod(fresh, 0o755);
    return fresh;
  }
  const kept = folder ?? join(home, "stack");
  await mkdir(kept, { recursive: true });
  return kept;
}

async function lockData(dataDir: string, guard: Guard): Promise<Lock> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const attempt = await tryLock(join(dataDir, "lock"), [process.pid, guard.pid]);
    if ("lock" in attempt) return attempt.lock;
    // When only the watcher is left, its parent was killed and it is just ending the servers.
    if (attempt.ownerLives || Date.now() > deadline) {
      throw new StackUnavailable(
        `A stack already runs on ${dataDir} (process ${attempt.heldBy}). Use that one, stop it first, or start a second one with --ephemeral.`,
      );
    }
    await new Promise((wake) => setTimeout(wake, 200));
  }
}

/** Ports are kept with the data, so that addresses stay the same from one start to the next when they are still free. */
async function choosePorts(dataDir: string, advertisedPorts: readonly number[]): Promise<Ports> {
  const file = join(dataDir, "ports.json");
  const text = await readFile(file, "utf8").catch(() => "{}");
  const kept = JSON.parse(text) as Readonly<Record<string, number>>;
  const taken = new Set<number>(advertisedPorts);
  async function choose(name: string): Promise<number> {
    const before = kept[name];
    if (before === undefined || taken.has(before) || !(await isFree(before))) return freePort(taken);
    taken.add(before);
    return before;
  }
  const chosen = {
    kafka: await choose("kafka"),
    kafkaController: await choose("kafkaController"),
    registry: await choose("registry"),
    postgres: await choose("postgres"),
    redis: await choose("redis"),
  };
  await writeFile(file, JSON.stringify(chosen));
  const extra: KafkaListener[] = [];
  for (const advertisedPort of advertisedPorts) extra.push({ advertisedPort, listenPort: await freePort(taken) });
  return { ...chosen, extra };
}
