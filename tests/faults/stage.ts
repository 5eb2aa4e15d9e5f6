/**
 * Where a run takes place: four real servers, the service in processes of its own, and a proxy in every connection between them.
 */
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Redis } from "ioredis";
import pino from "pino";
import { type ServiceProcess, startService } from "../../bin/service-process.ts";
import { serverNames } from "../../infra/local/ladder.ts";
import { freePort } from "../../infra/local/ports.ts";
import { type Stack, type StackUrls, startStack } from "../../infra/local/stack.ts";
import { createKeyring } from "../../store/keyring/keyring-file.ts";
import { openRootFile } from "../../store/keyring/root-file.ts";
import { type KafkaDoor, openKafka } from "../../streams/kafka.ts";
import { readers } from "../../streams/readers.ts";
import { type FaultProxy, openProxy } from "../proxy.ts";
import { Clocks } from "./clocks.ts";
import type { World } from "./faults/fault.ts";
import { Supervised } from "./supervised.ts";

/** Which parts run together, by the name of the process. */
export type Layout = Readonly<Record<string, readonly string[]>>;

export const layouts = {
  /** As few processes as can be broken apart from each other. */
  few: {
    "api-1": ["api"],
    "api-2": ["api"],
    encryption: ["encryption"],
    queuing: ["queuing", "routing"],
    acks: ["acks"],
    others: ["receipts", "push", "sessions", "metering", "audit", "relay", "jobs"],
  },
  each: {
    "api-1": ["api"],
    "api-2": ["api"],
    encryption: ["encryption"],
    queuing: ["queuing"],
    routing: ["routing"],
    acks: ["acks"],
    receipts: ["receipts"],
    push: ["push"],
    sessions: ["sessions"],
    metering: ["metering"],
    audit: ["audit"],
    relay: ["relay"],
    jobs: ["jobs"],
  },
} satisfies Record<string, Layout>;

export interface Stage {
  readonly world: World;
  readonly stack: Stack;
  /** For agents' stores and what else a run keeps. */
  readonly folder: string;
  /** Beside all proxies: for who looks, and for poison. */
  readonly kafka: KafkaDoor;
  /** Where agents find the API: each is one process. */
  readonly urls: readonly string[];
  process(name: string): Supervised;
  link(name: string): FaultProxy;
  /** A second process of the same parts, over the same connections. */
  startBeside(name: string): Promise<ServiceProcess>;
  /** The wall clocks of the processes. */
  readonly clocks: Clocks;
  redis(command: "FLUSHALL"): Promise<void>;
  /** Keeps what Redis has on disk; what is answered puts it back, while Redis is down. */
  copyRedis(): Promise<() => Promise<void>>;
  /** All links work, and all processes and servers are up. */
  heal(): Promise<void>;
  /** Ends the service; the servers stay. What the processes wrote. */
  endService(): Promise<Readonly<Record<string, string>>>;
  close(): Promise<void>;
}

/** Parts that never ask a server: breaking their connection to it would show nothing. The registry is asked at starts, and by whoever meets a new schema. */
const withoutUse: Readonly<Record<string, readonly string[]>> = {
  kafka: [],
  postgres: ["routing", "receipts"],
  redis: ["acks", "sessions", "relay"],
};

/** What a run of this layout can break. Known before anything is started. */
export function worldOf(layout: Layout): World {
  const processes = Object.keys(layout);
  return {
    processes,
    parts: layout,
    servers: [...serverNames],
    links: [
      ...processes.flatMap((process) =>
        Object.entries(withoutUse)
          .filter(([, parts]) => layout[process]?.some((part) => !parts.includes(part)))
          .map(([server]) => `${process}>${server}`),
      ),
      ...apisOf(layout).map((api) => `clients>${api}`),
    ],
    topics: [...new Set(readers.flatMap(({ reads }) => reads.map(({ name }) => name)))],
  };
}

export async function openStage(layout: Layout): Promise<Stage> {
  const world = worldOf(layout);
  const taken = new Set<number>();
  const kafkaPorts = new Map<string, number>();
  for (const name of world.processes) kafkaPorts.set(name, await freePort(taken));
  const stack = await startStack({
    env: withoutServers(process.env),
    ephemeral: true,
    kafkaAdvertisedPorts: [...kafkaPorts.values()],
  });
  const folder = await mkdtemp(path.join(tmpdir(), "sealpost-faults-"));
  const links = new Map<string, FaultProxy>();
  const processes = new Map<string, Supervised>();
  const kafka = openKafka({ brokers: stack.urls.kafkaBrokers, clientId: "faults", log: pino({ level: "silent" }) });
  const env = keyringIn(folder);
  const clocks = new Clocks(folder);

  async function close(): Promise<void> {
    await Promise.allSettled([...processes.values()].map((one) => one.end()));
    await Promise.allSettled([...links.values()].map((proxy) => proxy.close()));
    await kafka.close();
    await stack.stop();
    await rm(folder, { recursive: true, force: true });
  }

  try {
    for (const [place, [name, port]] of [...kafkaPorts].entries()) {
      const targetPort = stack.kafkaListeners[place]?.listenPort ?? 0;
      links.set(`${name}>kafka`, await openProxy({ port, targetPort, framed: true }));
      for (const server of ["registry", "postgres", "redis"] as const) {
        const { port: at } = new URL(urlOf(stack.urls, server));
        links.set(`${name}>${server}`, await openProxy({ targetPort: Number(at) }));
      }
    }
    const link = (name: string): FaultProxy => {
      const proxy = links.get(name);
      if (proxy === undefined) throw new Error("there is no such link");
      return proxy;
    };
    const apiPorts = new Map<string, number>();
    for (const api of apisOf(layout)) {
      const port = await freePort(taken);
      apiPorts.set(api, port);
      links.set(`clients>${api}`, await openProxy({ targetPort: port }));
    }
    const start = (name: string, more: Readonly<Record<string, string>>, prepare = false) =>
      startService(urlsOver(name, stack.urls, link), {
        roles: layout[name] ?? [],
        prepare,
        env: {
          ...env,
          ...clocks.env(name),
          SEALPOST_HTTP_PORT: `${apiPorts.get(name) ?? 0}`,
          SEALPOST_LOG_LEVEL: "info",
          ...more,
        },
      });

    // The first one makes tables, topics and schemas; the others need them.
    const [first = "", ...others] = world.processes;
    let isPrepared = false;
    const begin = async (name: string) => {
      const supervised = new Supervised(name, async (more) => {
        const started = await start(name, more, name === first && !isPrepared);
        if (name === first) isPrepared = true;
        return started;
      });
      processes.set(name, supervised);
      await supervised.up();
    };
    await begin(first);
    await Promise.all(others.map(begin));

    const processNamed = (name: string): Supervised => {
      const found = processes.get(name);
      if (found === undefined) throw new Error("there is no such process");
      return found;
    };
    return {
      world,
      stack,
      folder,
      kafka,
      urls: apisOf(layout).map((api) => `http://127.0.0.1:${link(`clients>${api}`).port}`),
      process: processNamed,
      link,
      startBeside: (name) => start(name, {}),
      clocks,
      redis: async (command) => {
        const redis = new Redis(stack.urls.redisUrl);
        try {
          await redis.call(command);
        } finally {
          redis.disconnect();
        }
      },
      copyRedis: async () => {
        const data = path.join(stack.dataDir, "redis");
        const copy = await mkdtemp(path.join(folder, "redis-"));
        await cp(data, copy, { recursive: true });
        return async () => {
          await rm(data, { recursive: true });
          await cp(copy, data, { recursive: true });
        };
      },
      heal: async () => {
        await clocks.heal();
        for (const proxy of links.values()) {
          proxy.delayMs = 0;
          if (proxy.mode !== "open") proxy.reset();
          proxy.mode = "open";
        }
        for (const { name, pids } of stack.servers) if (pids.length === 0) await stack.restart(name);
        await Promise.all([...processes.values()].map((one) => one.up()));
      },
      endService: async () => {
        await Promise.all([...processes.values()].map((one) => one.end()));
        return Object.fromEntries(Array.from(processes, ([name, one]) => [name, one.output()]));
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function apisOf(layout: Layout): readonly string[] {
  return Object.keys(layout).filter((name) => layout[name]?.includes("api"));
}

/** Servers that somebody named in the environment are not ours to break. */
function withoutServers(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !/^SEALPOST_.*_(URL|BROKERS)$/.test(name)));
}

function keyringIn(folder: string): Readonly<Record<string, string>> {
  const env = {
    SEALPOST_KEYRING_FILE: path.join(folder, "keyring"),
    SEALPOST_KEYRING_ROOT_FILE: path.join(folder, "root"),
  };
  createKeyring(env.SEALPOST_KEYRING_FILE, openRootFile(env.SEALPOST_KEYRING_ROOT_FILE));
  return env;
}

function urlOf(urls: StackUrls, server: "registry" | "postgres" | "redis"): string {
  return { registry: urls.registryUrl, postgres: urls.postgresUrl, redis: urls.redisUrl }[server];
}

/** The servers as one process finds them: each behind its own proxy. */
function urlsOver(name: string, urls: StackUrls, link: (name: string) => FaultProxy): StackUrls {
  const over = (server: "registry" | "postgres" | "redis") => {
    const url = new URL(urlOf(urls, server));
    url.hostname = "127.0.0.1";
    url.port = String(link(`${name}>${server}`).port);
    return url.href;
  };
  return {
    kafkaBrokers: [`127.0.0.1:${link(`${name}>kafka`).port}`],
    registryUrl: over("registry"),
    postgresUrl: over("postgres"),
    redisUrl: over("redis"),
  };
}
