/**
 * Kafka as a local process: one broker that is its own controller (KRaft), alone or one of several.
 *
 * Promises: topics are created by declaration only, record times are append times, one copy of everything (of several brokers, of what Kafka keeps for itself
 * one on each), and a consumer group that forms does not wait. With extra listeners a client behind a TCP proxy keeps going through it,
 * because the broker advertises the proxy's address there.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { askKafka } from "../../streams/probe.ts";
import { bundles, CannotRun, exists, fetchBundle, serverEnv, type Workshop } from "./binaries.ts";
import { classArchive, findJava } from "./java.ts";
import type { LocalServer } from "./local-server.ts";

/** Clients that come in by `listenPort` are told to use `advertisedPort`: where the test's proxy listens. */
export interface KafkaListener {
  readonly listenPort: number;
  readonly advertisedPort: number;
}

export interface KafkaPorts {
  readonly main: number;
  readonly controller: number;
  readonly extra: readonly KafkaListener[];
}

/** A broker's place among several. */
export interface KafkaMember {
  readonly clusterId: string;
  /** Counted from 1; its place in `controllerPorts`. */
  readonly nodeId: number;
  /** One for each member; `ports.controller` is its own. */
  readonly controllerPorts: readonly number[];
  /** What stands in server.properties beside. */
  readonly settings?: Readonly<Record<string, string>>;
  /** For `kafka-storage format`, beside. */
  readonly formatWords?: readonly string[];
}

export async function prepareKafka(
  shop: Workshop,
  dataDir: string,
  logFile: string,
  ports: KafkaPorts,
  member: KafkaMember = alone(ports),
): Promise<LocalServer> {
  const [java, bundle] = await Promise.all([findJava(shop), fetchBundle(bundles.kafka, shop)]);
  const jars = (await readdir(bundle)).filter((name) => name.endsWith(".jar")).sort();
  const classPath = jars.map((name) => join(bundle, name)).join(":");
  const logDir = join(dataDir, "log");
  const config = join(dataDir, "server.properties");
  await mkdir(dataDir, { recursive: true });
  await writeFile(config, asProperties({ ...kafkaSettings(logDir, ports, loopback, member), ...member.settings }));
  const archive = await classArchive(bundle, java, dataDir);
  const env = serverEnv(shop.env);

  if (!(await exists(join(logDir, "meta.properties")))) {
    const flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", ...(archive.isWriting ? [] : archive.flags)];
    const formatted = await shop.guard.run({
      command: java.command,
      args: [
        ...flags,
        "-cp",
        classPath,
        "kafka.tools.StorageTool",
        "format",
        `--cluster-id=${member.clusterId}`,
        "-c",
        config,
        ...(member.formatWords ?? []),
      ],
      cwd: dataDir,
      env,
    });
    shop.signal?.throwIfAborted();
    if (formatted.code !== 0) throw new CannotRun(`Kafka could not format its folder: ${formatted.output.slice(-400)}`);
  }

  const broker = `127.0.0.1:${ports.main}`;
  return {
    name: "kafka",
    url: broker,
    title: `Kafka ${jars.map((name) => /^kafka_2\.13-([\d.]+)\.jar$/.exec(name)?.[1]).find(Boolean) ?? ""}`.trim(),
    launch: {
      command: java.command,
      args: [
        "-Xmx512m",
        // A long pause of a small heap would look like a slow broker in every latency test.
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        ...archive.flags,
        "-Dlog4j2.level=WARN",
        "-cp",
        classPath,
        "kafka.Kafka",
        config,
      ],
      cwd: dataDir,
      env,
      logFile,
      orphanSignal: "SIGTERM",
    },
    stopSignal: "SIGTERM",
    dropSignal: archive.isWriting ? "SIGTERM" : "SIGKILL",
    check: () => askKafka([broker], { coordinator: true }),
    afterStop: archive.adopt,
  };
}

export interface KafkaHosts {
  readonly bindHost: string;
  readonly advertisedHost: string;
}

const loopback: KafkaHosts = { bindHost: "127.0.0.1", advertisedHost: "127.0.0.1" };

/** Settings of the broker by their names in server.properties, for every way that we start it ourselves. */
export function kafkaSettings(
  logDir: string,
  ports: KafkaPorts,
  { bindHost, advertisedHost }: KafkaHosts = loopback,
  { nodeId, controllerPorts }: KafkaMember = alone(ports),
): Readonly<Record<string, string>> {
  const copies = String(controllerPorts.length);
  const copiesMin = String(Math.ceil(controllerPorts.length / 2));
  const extra = ports.extra.map((listener, index) => ({ ...listener, name: `PROXIED${index}` }));
  return {
    "process.roles": "broker,controller",
    "node.id": String(nodeId),
    "controller.quorum.voters": controllerPorts.map((port, index) => `${index + 1}@127.0.0.1:${port}`).join(","),
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    listeners: [
      `PLAINTEXT://${bindHost}:${ports.main}`,
      `CONTROLLER://127.0.0.1:${ports.controller}`,
      ...extra.map(({ name, listenPort }) => `${name}://${bindHost}:${listenPort}`),
    ].join(","),
    "advertised.listeners": [
      `PLAINTEXT://${advertisedHost}:${ports.main}`,
      ...extra.map(({ name, advertisedPort }) => `${name}://127.0.0.1:${advertisedPort}`),
    ].join(","),
    "listener.security.protocol.map": ["PLAINTEXT", "CONTROLLER", ...extra.map(({ name }) => name)]
      .map((name) => `${name}:PLAINTEXT`)
      .join(","),
    "log.dirs": logDir,
    "auto.create.topics.enable": "false",
    "log.message.timestamp.type": "LogAppendTime",
    "group.initial.rebalance.delay.ms": "0",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": copies,
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": copies,
    "transaction.state.log.min.isr": copiesMin,
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": copies,
    "share.coordinator.state.topic.min.isr": copiesMin,
    // After SIGKILL the controller lets the broker back in only when the old session is over: 9 s by default. Much
    // shorter, and a busy laptop would lose its only broker to a pause.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    // The default buffer, 128 MB, is a quarter of the whole heap.
    "log.cleaner.threads": "1",
    "log.cleaner.dedupe.buffer.size": "16777216",
    // Trimming and short retentions can be seen at work while one watches.
    "log.retention.check.interval.ms": "30000",
    "log.segment.delete.delay.ms": "5000",
  };
}

function alone(ports: KafkaPorts): KafkaMember {
  return { clusterId: randomBytes(16).toString("base64url"), nodeId: 1, controllerPorts: [ports.controller] };
}

function asProperties(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name}=${value}\n`)
    .join("");
}
