/**
 * Containers as one of the ways to a server, where a container engine answers.
 *
 * Promises: nothing here needs an engine until it is asked for one; a missing engine is a reason in words, not an
 * error. Containers are removed when this process ends, however it ends (testcontainers' own reaper sees to it); the
 * data of a stack that is not ephemeral stays in named volumes.
 */
import { createHash } from "node:crypto";
import { access } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { askKafka } from "../../streams/probe.ts";
import { CannotRun } from "./binaries.ts";
import type { Env, ServerName } from "./ladder.ts";
import { type KafkaPorts, kafkaSettings } from "./local-kafka.ts";
import { messageOf, type RunningServer } from "./local-server.ts";
import type { ProgressSink } from "./progress.ts";
import { askPostgres, askRedis, askRegistry } from "./readiness.ts";

/** The same as in docker-compose.yml; a test compares the two. */
export const images: Readonly<Record<ServerName, string>> = {
  kafka: "apache/kafka:4.1.1",
  registry: "apicurio/apicurio-registry-mem:2.6.13.Final",
  postgres: "postgres:17",
  redis: "redis:7",
};

/** A first start pulls images of several hundred megabytes. */
const startMsMax = 300_000;
const checkEveryMs = 100;
const answerMsMax = 60_000;

/** Why no container engine can be used; null when one answers. */
export async function whyNoEngine(env: Env): Promise<string | null> {
  const host = env["DOCKER_HOST"] ?? "";
  const sockets = ["/var/run/docker.sock", join(homedir(), ".docker", "run", "docker.sock")];
  const runtimeFolder = env["XDG_RUNTIME_DIR"] ?? "";
  if (runtimeFolder !== "") sockets.push(join(runtimeFolder, "docker.sock"));
  const found = await Promise.all(sockets.map(isThere));
  // Asking for a socket first spares machines without an engine the second that loading the client takes.
  if (host === "" && !found.includes(true)) {
    return `no container engine answers: DOCKER_HOST is not set and there is no socket at ${sockets.join(" or ")}.`;
  }
  try {
    const { getContainerRuntimeClient } = await import("testcontainers");
    await getContainerRuntimeClient();
    return null;
  } catch (error) {
    return `no container engine answers${host === "" ? "" : ` at DOCKER_HOST ${host}`} (${messageOf(error)}).`;
  }
}

interface Recipe {
  readonly environment: Readonly<Record<string, string>>;
  readonly command?: readonly string[];
  /** Container port and host port. */
  readonly ports: readonly { readonly container: number; readonly host: number }[];
  /** Where the image keeps its data. */
  readonly dataPath: string;
  readonly user?: string;
  readonly urlAt: (host: string) => string;
  readonly check: (url: string) => Promise<void>;
}

export interface ContainerPorts {
  readonly kafka: KafkaPorts;
  readonly registry: number;
  readonly postgres: number;
  readonly redis: number;
}

/** `dataDir` names the volumes of a stack that keeps its data; null for an ephemeral one. */
export async function startContainer(
  name: ServerName,
  ports: ContainerPorts,
  dataDir: string | null,
  progress: ProgressSink,
): Promise<RunningServer> {
  const { GenericContainer, getContainerRuntimeClient } = await import("testcontainers");
  const client = await getContainerRuntimeClient();
  const recipe = recipeOf(name, ports, client.info.containerRuntime.host);
  let container = new GenericContainer(images[name])
    .withEnvironment({ ...recipe.environment })
    .withExposedPorts(...recipe.ports)
    .withStartupTimeout(startMsMax);
  if (recipe.command !== undefined) container = container.withCommand([...recipe.command]);
  if (recipe.user !== undefined) container = container.withUser(recipe.user);
  if (dataDir !== null) {
    container = container.withBindMounts([{ source: volumeName(name, dataDir), target: recipe.dataPath }]);
  }
  progress({ kind: "note", server: name, text: `starting a container of ${images[name]}` });
  const started = await container.start();
  const url = recipe.urlAt(started.getHost());
  const engine = client.container.getById(started.getId());
  const stop = async () => {
    await started.stop({ removeVolumes: dataDir === null });
  };
  try {
    await untilItAnswers(() => recipe.check(url));
  } catch (error) {
    await stop();
    throw error;
  }
  async function kill(): Promise<void> {
    const { State } = await engine.inspect();
    if (State.Running) await engine.kill({ signal: "SIGKILL" });
  }
  return {
    way: "container",
    url,
    title: images[name],
    pids: () => [],
    kill,
    restart: async () => {
      await kill();
      await engine.start();
      await untilItAnswers(() => recipe.check(url));
    },
    stop,
  };
}

function recipeOf(name: ServerName, ports: ContainerPorts, host: string): Recipe {
  if (name === "kafka") {
    const dataPath = "/var/lib/kafka/data";
    const settings = kafkaSettings(dataPath, ports.kafka, { bindHost: "0.0.0.0", advertisedHost: host });
    const published = [ports.kafka.main, ...ports.kafka.extra.map((listener) => listener.listenPort)];
    return {
      // The image turns such variables into settings: KAFKA_LOG_DIRS is log.dirs.
      environment: {
        ...Object.fromEntries(
          Object.entries(settings).map(([key, value]) => [`KAFKA_${key.replaceAll(".", "_").toUpperCase()}`, value]),
        ),
        KAFKA_HEAP_OPTS: "-Xmx512m",
      },
      ports: published.map((port) => ({ container: port, host: port })),
      dataPath,
      urlAt: (at) => `${at}:${ports.kafka.main}`,
      check: (url) => askKafka([url], { coordinator: true }),
    };
  }
  if (name === "registry") {
    return {
      environment: { REGISTRY_DATASOURCE_URL: "jdbc:h2:file:/registry-data/registry;WRITE_DELAY=0" },
      ports: [{ container: 8080, host: ports.registry }],
      dataPath: "/registry-data",
      // A new volume belongs to root, and the image's own user could not write there.
      user: "0",
      urlAt: (at) => `http://${at}:${ports.registry}/apis/ccompat/v7`,
      check: askRegistry,
    };
  }
  if (name === "postgres") {
    return {
      environment: { POSTGRES_USER: "sealpost", POSTGRES_PASSWORD: "sealpost", POSTGRES_DB: "sealpost" },
      command: ["postgres", "-c", "max_connections=200"],
      ports: [{ container: 5432, host: ports.postgres }],
      dataPath: "/var/lib/postgresql/data",
      urlAt: (at) => `postgres://sealpost:sealpost@${at}:${ports.postgres}/sealpost`,
      check: askPostgres,
    };
  }
  return {
    environment: {},
    command: ["redis-server", "--save", "", "--appendonly", "yes"],
    ports: [{ container: 6379, host: ports.redis }],
    dataPath: "/data",
    urlAt: (at) => `redis://${at}:${ports.redis}`,
    check: askRedis,
  };
}

function volumeName(name: ServerName, dataDir: string): string {
  return `sealpost-${createHash("sha256").update(dataDir).digest("hex").slice(0, 12)}-${name}`;
}

async function untilItAnswers(check: () => Promise<void>): Promise<void> {
  const deadline = Date.now() + answerMsMax;
  for (;;) {
    try {
      await check();
      return;
    } catch (error) {
      if (Date.now() > deadline) {
        throw new CannotRun(`it runs but did not answer within ${answerMsMax / 1000} s (${messageOf(error)}).`);
      }
    }
    await new Promise((wake) => setTimeout(wake, checkEveryMs));
  }
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
