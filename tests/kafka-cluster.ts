/**
 * Three brokers, each a controller, too: what is acknowledged with `acks=all` is on two of them at least. Each can lose its disk, and be replaced by an empty one.
 *
 * Clients of ours come in by TLS and have to say who they are (SCRAM), as they would in production; what only looks comes in plainly.
 */
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { definedOnly, type Workshop } from "../infra/local/binaries.ts";
import { openGuard } from "../infra/local/guard.ts";
import { type KafkaMember, prepareKafka } from "../infra/local/local-kafka.ts";
import { type RunningServer, startLocal } from "../infra/local/local-server.ts";
import { freePort } from "../infra/local/ports.ts";
import { silent } from "../infra/local/progress.ts";

const SIZE = 3;
const USERNAME = "sealpost";
const CERTIFICATES = path.join(import.meta.dirname, "certificates");
const HOME = path.resolve(import.meta.dirname, "../.sealpost");

export interface KafkaCluster {
  /** Without TLS, and nobody asks who comes. */
  readonly brokers: readonly string[];
  /** For processes of the service. */
  readonly env: Readonly<Record<string, string>>;
  readonly password: string;
  /** SIGKILL, and its disk is gone. */
  lose(nodeId: number): Promise<void>;
  /** An empty one under the same id; resolves when it answers. */
  replace(nodeId: number): Promise<void>;
  stop(): Promise<void>;
}

export async function startKafkaCluster(): Promise<KafkaCluster> {
  const cacheDir = path.join(HOME, "cache");
  await mkdir(path.join(HOME, "run"), { recursive: true });
  const folder = await mkdtemp(path.join(HOME, "run", "cluster-"));
  const guard = await openGuard(definedOnly(process.env));
  guard.removeAtEnd(folder);
  const shop: Workshop = { guard, env: process.env, cacheDir, progress: silent, signal: undefined };
  const password = randomBytes(12).toString("hex");
  const clusterId = randomBytes(16).toString("base64url");
  const keyStore = path.join(folder, "broker.pem");
  const parts = await Promise.all(
    ["providers-key.pem", "providers.pem"].map((name) => readFile(path.join(CERTIFICATES, name))),
  );
  await writeFile(keyStore, Buffer.concat(parts), { mode: 0o600 });

  const taken = new Set<number>();
  const members: { readonly main: number; readonly controller: number; readonly secure: number }[] = [];
  for (let count = 0; count < SIZE; count++) {
    members.push({ main: await freePort(taken), controller: await freePort(taken), secure: await freePort(taken) });
  }
  const controllerPorts = members.map(({ controller }) => controller);
  const running = new Map<number, RunningServer>();
  const dataOf = (nodeId: number) => path.join(folder, `kafka-${nodeId}`);

  async function start(nodeId: number): Promise<void> {
    const own = members[nodeId - 1];
    if (own === undefined) throw new Error(`there is no broker ${nodeId}`);
    const ports = {
      main: own.main,
      controller: own.controller,
      extra: [{ listenPort: own.secure, advertisedPort: own.secure }],
    };
    const member: KafkaMember = {
      clusterId,
      nodeId,
      controllerPorts,
      settings: {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED0:SASL_SSL",
        "listener.name.proxied0.ssl.keystore.type": "PEM",
        "listener.name.proxied0.ssl.keystore.location": keyStore,
        "listener.name.proxied0.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.proxied0.scram-sha-512.sasl.jaas.config":
          "org.apache.kafka.common.security.scram.ScramLoginModule required;",
      },
      formatWords: ["--add-scram", `SCRAM-SHA-512=[name=${USERNAME},password=${password}]`],
    };
    const server = await prepareKafka(shop, dataOf(nodeId), path.join(folder, `kafka-${nodeId}.log`), ports, member);
    running.set(nodeId, await startLocal(server, shop));
  }

  async function stop(): Promise<void> {
    await Promise.all(Array.from(running.values(), (server) => server.stop(true)));
    await guard.close();
  }

  try {
    await Promise.all(members.map((_, index) => start(index + 1)));
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    brokers: members.map(({ main }) => `127.0.0.1:${main}`),
    password,
    env: {
      SEALPOST_KAFKA_BROKERS: members.map(({ secure }) => `127.0.0.1:${secure}`).join(","),
      SEALPOST_KAFKA_TLS: "true",
      SEALPOST_KAFKA_SASL: "scram-sha-512",
      SEALPOST_KAFKA_USERNAME: USERNAME,
      SEALPOST_KAFKA_PASSWORD: password,
      SEALPOST_REPLICAS: String(SIZE),
      SEALPOST_PARTITIONS: "2",
      NODE_EXTRA_CA_CERTS: path.join(CERTIFICATES, "providers.pem"),
    },
    lose: async (nodeId) => {
      await running.get(nodeId)?.kill();
      await rm(dataOf(nodeId), { recursive: true });
    },
    replace: start,
    stop,
  };
}
