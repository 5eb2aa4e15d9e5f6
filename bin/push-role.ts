/**
 * The push consumer, joined with providers and webhooks as far as the environment names them.
 */
import { readFile } from "node:fs/promises";
import { openApns } from "../consumers/push/apns-door.ts";
import { openFcm } from "../consumers/push/fcm-door.ts";
import type { PushDoor } from "../consumers/push/outcomes.ts";
import { push } from "../consumers/push/push.ts";
import { openWebhooks } from "../consumers/push/webhook-door.ts";
import { type DeviceKind, findDevices, forgetDevice, moveDevice } from "../store/devices.ts";
import { lastSeqs, waitsUpTo } from "../store/mailbox.ts";
import { openPostgres } from "../store/postgres.ts";
import { openPresence } from "../store/presence.ts";
import { openRedis } from "../store/redis.ts";
import { openWakes } from "../store/wakes.ts";
import { agentEvents } from "../streams/agent-events.ts";
import { openCodec } from "../streams/codec.ts";
import { type PartContext, startStateless } from "./consumer-role.ts";
import type { PushConfig } from "./push-config.ts";
import type { Role } from "./role.ts";

/** A batch has one statement under way, and beside it the devices that are gone, one after the other. */
const POOL_CONNECTIONS_MAX = 2;

/** @throws Error when a file that the environment names is not there, or not what it should be */
export async function startPush(context: PartContext): Promise<Role> {
  const { config, metrics, log } = context;
  const doors = await openDoors(config.push);
  const redis = openRedis(config.redisUrl);
  const postgres = openPostgres(config.postgresUrl, {
    applicationName: "sealpost-push",
    connectionsMax: POOL_CONNECTIONS_MAX,
  });
  const codec = await openCodec({ registryUrl: config.registryUrl, register: false });
  const fact = agentEvents(codec, "/sealpost/push");
  const consumer = push({
    presence: openPresence(redis),
    wakes: openWakes(redis),
    waits: (upTo) => waitsUpTo(postgres, upTo),
    lastSeqs: (agentIds) => lastSeqs(postgres, agentIds),
    findDevices: (agentIds) => findDevices(postgres, agentIds),
    forgetDevice: (device, before) => forgetDevice(postgres, fact, device, before, Date.now()),
    moveDevice: (device, environment) => moveDevice(postgres, device, environment),
    doors,
    count: (kind, outcome) => metrics.wakes.inc({ kind, outcome }),
    alert: (kind, outcome, code) => {
      if (outcome === "gone") log.warn({ kind, code }, "a provider no longer knows a device: it is taken away");
      else if (outcome === "fault")
        log.error({ kind, code }, "a push provider does not take this service's word: look at its credentials");
      else if (outcome === "foreign")
        log.error(
          { kind, code },
          "a push provider knows a token for another app, and has taken no wake since the start: are topic and service account the right ones?",
        );
      else log.error({ kind, code }, "a bug: a push provider finds a call wrong in itself; please report it");
    },
    now: Date.now,
    random: Math.random,
  });
  return startStateless(context, consumer, async () => {
    redis.close();
    await postgres.close();
    await Promise.all([...doors.values()].map((door) => door.close()));
  });
}

async function openDoors({ fcm, apns, caFile, webhooks }: PushConfig): Promise<ReadonlyMap<DeviceKind, PushDoor>> {
  const ca = caFile === undefined ? undefined : await readFile(caFile, "utf8");
  const doors = new Map<DeviceKind, PushDoor>();
  if (fcm !== undefined) doors.set("fcm", openFcm({ ...fcm, ca }));
  if (apns !== undefined) {
    const { keyFile, ...options } = apns;
    doors.set("apns", openApns({ ...options, key: await readFile(keyFile, "utf8"), ca }));
  }
  if (webhooks !== "off") doors.set("webhook", openWebhooks({ any: webhooks === "any", ca }));
  return doors;
}
