/**
 * The rotation of prekeys, joined with what it needs: for the clock, and for operators.
 */
import type pino from "pino";
import type { RotationDeps, ServerKeys } from "../jobs/rotation.ts";
import { openHandover } from "../store/handover.ts";
import type { Postgres } from "../store/postgres.ts";
import { openBundles } from "../store/prekey-bundles.ts";
import { uploadPrekeys } from "../store/prekey-uploads.ts";
import { openPresence } from "../store/presence.ts";
import type { RedisDoor } from "../store/redis.ts";
import { prekeyRotationFailed } from "../streams/catalogue.ts";
import type { Codec } from "../streams/codec.ts";
import { prekeyEvents } from "../streams/prekey-events.ts";
import { factOf } from "./facts.ts";
import type { Metrics } from "./metrics.ts";

const SOURCE = "/sealpost/rotation";

export interface RotationParts {
  readonly codec: Codec;
  readonly postgres: Postgres;
  readonly redis: RedisDoor;
  readonly keys: ServerKeys;
  readonly metrics: Metrics;
  readonly log: pino.Logger;
}

export function joinRotation({ codec, postgres, redis, keys, metrics, log }: RotationParts): RotationDeps {
  const uploads = { facts: prekeyEvents(codec, SOURCE), bundles: openBundles(redis, postgres) };
  return {
    postgres,
    keys,
    storePrekeys: (agentId, prekeys, now) => uploadPrekeys(postgres, uploads, agentId, prekeys, now),
    presence: openPresence(redis),
    handover: openHandover(redis),
    factOf: (value) =>
      factOf(codec, {
        topic: prekeyRotationFailed,
        key: value.agentId,
        value,
        id: value.eventId,
        source: SOURCE,
        time: value.failedAt,
        subject: value.agentId,
      }),
    onRotated: () => metrics.rotations.inc({ outcome: "done" }),
    onFailed: (code, error) => {
      metrics.rotations.inc({ outcome: "failed" });
      if (code === "internal") log.error({ err: error }, "a bug in a rotation: please report it; it is tried again");
      else log.warn({ err: error, code }, "a rotation failed; it is tried again");
    },
  };
}
