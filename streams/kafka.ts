/**
 * The door to Kafka: one configured client, one shared admin connection.
 *
 * kafkajs's own log goes through ours one level down: what it calls an error is usually a broker that restarts, and an error in our log
 * is a bug somebody must look at.
 */
import { setTimeout as sleep } from "node:timers/promises";
import kafkajs, {
  type Admin,
  Kafka,
  type KafkaConfig,
  type KafkaMessage,
  type LogEntry,
  logLevel,
  type SASLOptions,
} from "kafkajs";
import type pino from "pino";
import { Unavailable } from "../protocol/refusal.ts";
import { createExclusive } from "./exclusive.ts";
import { hideAborted } from "./kafkajs-aborted.ts";
import { heartbeatWhateverTheClock } from "./kafkajs-heartbeat.ts";
import { quietRequestQueue } from "./kafkajs-timer.ts";

export type { KafkaMessage };

/** Which brokers, and how they and we prove to each other who we are. */
export interface KafkaServers {
  /** `host:port` of some; the others are found. */
  readonly brokers: readonly string[];
  /** Undefined: no TLS. `cert` and `key`, PEM: what brokers are shown that ask for it. */
  readonly tls?: { readonly cert?: string | undefined; readonly key?: string | undefined } | undefined;
  readonly sasl?:
    | {
        readonly mechanism: "plain" | "scram-sha-256" | "scram-sha-512";
        readonly username: string;
        readonly password: string;
      }
    | undefined;
}

export interface KafkaOptions extends KafkaServers {
  readonly clientId: string;
  readonly log: pino.Logger;
  /** A broker that takes longer for one answer is treated as away; the same request, tried again, is recognised. */
  readonly requestMsMax?: number;
}

export interface KafkaDoor {
  readonly client: Kafka;
  /**
   * Runs an administrator's question over the one connection for them; again and from its beginning where a partition has no leader
   * just then, for 5 s. Rejects with `Unavailable("kafka")`.
   */
  ask<Answer>(question: (admin: Admin) => Promise<Answer>): Promise<Answer>;
  close(): Promise<void>;
}

const requestMsMax = 5_000;
const connectMsMax = 3_000;
/** How long a topic that has just been made, or whose broker has just come back, may take until its partitions answer. */
const leaderMsMax = 5_000;
const leaderLookMs = 100;

/** Connects at first use. */
export function openKafka(options: KafkaOptions): KafkaDoor {
  quietRequestQueue();
  hideAborted();
  heartbeatWhateverTheClock();
  const client = new Kafka({
    clientId: options.clientId,
    brokers: [...options.brokers],
    ...securityOf(options),
    connectionTimeout: connectMsMax,
    requestTimeout: options.requestMsMax ?? requestMsMax,
    retry: { initialRetryTime: 50, maxRetryTime: 1_000, retries: 5 },
    logLevel: logLevel.WARN,
    logCreator: () => logTo(options.log),
  });
  const exclusive = createExclusive();
  let connecting: Promise<Admin> | null = null;

  function connected(): Promise<Admin> {
    connecting ??= (async () => {
      const admin = client.admin();
      try {
        await admin.connect();
        return admin;
      } catch (error) {
        connecting = null;
        throw error;
      }
    })();
    return connecting;
  }

  async function disconnect(): Promise<void> {
    const admin = connecting;
    connecting = null;
    await admin?.then((open) => open.disconnect()).catch(() => undefined);
  }

  return {
    client,
    // One question at a time: asked for several topics at once, kafkajs's admin loses its metadata of one while it learns another's.
    ask: (question) =>
      exclusive.run(async () => {
        for (const until = performance.now() + leaderMsMax; ; await sleep(leaderLookMs)) {
          try {
            return await question(await connected());
          } catch (error) {
            // The next question is asked over a new connection.
            await disconnect();
            if (!hasNoLeader(error) || performance.now() > until) throw new Unavailable("kafka", error);
          }
        }
      }),
    close: disconnect,
  };
}

function securityOf({ tls, sasl }: KafkaServers): Pick<KafkaConfig, "ssl" | "sasl"> {
  return {
    ...(tls !== undefined && { ssl: tls }),
    // Each mechanism is a type of its own in kafkajs; all three take the same two words.
    ...(sasl !== undefined && { sasl: sasl as SASLOptions }),
  };
}

/** Kafka tells of a new leader before that one has taken its place, and kafkajs's admin asks again only for topics it does not know. */
function hasNoLeader(error: unknown): boolean {
  return (
    error instanceof kafkajs.KafkaJSProtocolError &&
    (error.type === "NOT_LEADER_FOR_PARTITION" || error.type === "LEADER_NOT_AVAILABLE")
  );
}

function logTo(log: pino.Logger): (entry: LogEntry) => void {
  return ({ level, namespace, log: { message, timestamp: _, ...fields } }) => {
    const line = { kafkajs: namespace, error: fields["error"], topic: fields["topic"], partition: fields["partition"] };
    if (level === logLevel.ERROR) log.warn(line, message);
    else log.debug(line, message);
  };
}
