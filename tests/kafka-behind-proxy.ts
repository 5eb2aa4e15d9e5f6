/**
 * A Kafka of a file's own that is told to advertise a proxy's port, so that answers can be swallowed and connections broken on demand; it may be killed.
 */
import pino from "pino";
import { afterAll, beforeAll } from "vitest";
import { freePort } from "../infra/local/ports.ts";
import { type Stack, startStack } from "../infra/local/stack.ts";
import { type KafkaDoor, openKafka } from "../streams/kafka.ts";
import { type FaultProxy, openProxy } from "./proxy.ts";
import { useStack } from "./stack.ts";

export interface KafkaBehindProxy {
  readonly stack: Stack;
  readonly proxy: FaultProxy;
  /** Around the proxy. */
  readonly direct: KafkaDoor;
  readonly proxied: KafkaDoor;
}

/** To be called once in a file of tests. `requestMsMax`: of the door behind the proxy. */
export function useKafkaBehindProxy({ requestMsMax }: { readonly requestMsMax: number }): () => KafkaBehindProxy {
  const log = pino({ level: "silent" });
  let opened: KafkaBehindProxy | null = null;
  beforeAll(async () => {
    const advertisedPort = await freePort(new Set());
    const { registryUrl, postgresUrl, redisUrl } = useStack();
    const { SEALPOST_KAFKA_BROKERS: _, ...env } = process.env;
    const others = {
      SEALPOST_REGISTRY_URL: registryUrl,
      SEALPOST_POSTGRES_URL: postgresUrl,
      SEALPOST_REDIS_URL: redisUrl,
    };
    const kafkaAdvertisedPorts = [advertisedPort];
    const stack = await startStack({ env: { ...env, ...others }, ephemeral: true, kafkaAdvertisedPorts });
    const targetPort = stack.kafkaListeners[0]?.listenPort ?? 0;
    const proxy = await openProxy({ port: advertisedPort, targetPort, framed: true });
    const direct = openKafka({ brokers: stack.urls.kafkaBrokers, clientId: "direct", log });
    const brokers = [`127.0.0.1:${advertisedPort}`];
    opened = { stack, proxy, direct, proxied: openKafka({ brokers, clientId: "proxied", log, requestMsMax }) };
  });
  afterAll(async () => {
    if (opened === null) return;
    await Promise.all([opened.direct.close(), opened.proxied.close()]);
    await opened.proxy.close();
    await opened.stack.stop();
  });
  return () => {
    if (opened === null) throw new Error("the stage is open in tests and hooks only");
    return opened;
  };
}
