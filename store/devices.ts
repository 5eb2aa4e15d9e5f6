/**
 * Devices: where an agent that is not connected is woken.
 *
 * Promises: an agent has at most `devicesMax`; each change and the fact that tells the world are one transaction; a device is taken away for
 * what was said about it only if it is still as it was then. Addresses (tokens, URLs) and secrets leave this file to nobody but the push consumer.
 */
import { randomBytes } from "node:crypto";
import { Refusal } from "../protocol/refusal.ts";
import type { Custody, DeviceChange } from "../schemas/values.ts";
import { lockAgent } from "./agents.ts";
import { addFact, type Fact } from "./facts.ts";
import { inTransaction, type Postgres, type Queryable } from "./postgres.ts";

export type DeviceKind = "fcm" | "apns" | "webhook";
export type ApnsEnvironment = "production" | "sandbox";
export type Urgency = "background" | "urgent";

/** What its agent may see of it. Times are ms since the epoch. */
export interface DeviceSummary {
  /** UUID, lower-case text; unique with the agent. */
  readonly deviceId: string;
  readonly kind: DeviceKind;
  /** Of APNs; else null. */
  readonly environment: ApnsEnvironment | null;
  readonly urgency: Urgency;
  readonly createdAt: number;
  /** When the agent last said that this is its device. */
  readonly refreshedAt: number;
}

export interface Device extends DeviceSummary {
  readonly agentId: string;
  /** The provider's token, or the webhook's URL. */
  readonly address: string;
  /** Of webhooks, as Standard Webhooks writes it (`whsec_…`); else null. */
  readonly secret: string | null;
}

export interface DeviceRegistration {
  readonly agentId: string;
  readonly deviceId: string;
  readonly kind: DeviceKind;
  readonly address: string;
  readonly environment: ApnsEnvironment | null;
  readonly urgency: Urgency;
  /** A webhook gets another secret, also when it has one. */
  readonly newSecret: boolean;
}

export interface RegisteredDevice {
  readonly device: DeviceSummary;
  readonly created: boolean;
  /** Of a webhook whose secret is new; never told again. */
  readonly secret: string | null;
}

/** Encodes `agent.changed.v1`. */
export type MakeDeviceFact = (change: {
  readonly change: DeviceChange;
  readonly agentId: string;
  readonly custody: Custody;
  readonly deviceId: string;
  readonly changedAt: number;
}) => Fact;

/** A person's phones and tablets, an agent's regions. More, and each message costs its sender's service a burst of calls. */
export const devicesMax = 10;

/** Standard Webhooks: 24 to 64 random bytes. */
const secretBytes = 32;

/**
 * Registers a device, or says anew what it is. The same again is only noted as fresh.
 *
 * @throws Refusal `devices-full`, `agent-unknown`; `Unavailable`
 */
export function putDevice(
  postgres: Postgres,
  makeFact: MakeDeviceFact,
  registration: DeviceRegistration,
  now: number,
): Promise<RegisteredDevice> {
  const { agentId, deviceId, kind, address, environment, urgency, newSecret } = registration;
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) throw new Refusal("agent-unknown");
    const devices = await findDevices(client, [agentId]);
    const before = devices.find((device) => device.deviceId === deviceId);
    if (before === undefined && devices.length >= devicesMax) throw new Refusal("devices-full");
    const kept = before?.kind === kind && !newSecret ? before.secret : null;
    const made = kind === "webhook" && kept === null ? `whsec_${randomBytes(secretBytes).toString("base64")}` : null;
    const createdAt = before?.createdAt ?? now;
    await client.query({
      name: "put-device",
      text: `INSERT INTO messaging_devices AS d
               (agent_id, device_id, kind, address, environment, urgency, secret, created_at, refreshed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (agent_id, device_id) DO UPDATE SET kind = excluded.kind, address = excluded.address,
               environment = excluded.environment, urgency = excluded.urgency, secret = excluded.secret, refreshed_at = excluded.refreshed_at`,
      values: [agentId, deviceId, kind, address, environment, urgency, made ?? kept, createdAt, now],
    });
    const isSame =
      before?.kind === kind &&
      before.address === address &&
      before.environment === environment &&
      before.urgency === urgency;
    if (!isSame || made !== null) {
      const fact = { change: "device-registered", agentId, custody: agent.custody, deviceId, changedAt: now } as const;
      await addFact(client, makeFact(fact), now);
    }
    const device = { deviceId, kind, environment, urgency, createdAt, refreshedAt: now };
    return { device, created: before === undefined, secret: made };
  });
}

/** By its agent's wish. Answers whether it was there. @throws Unavailable */
export function removeDevice(
  postgres: Postgres,
  makeFact: MakeDeviceFact,
  { agentId, deviceId }: Pick<Device, "agentId" | "deviceId">,
  now: number,
): Promise<boolean> {
  return takeAway(postgres, makeFact, "device-removed", agentId, deviceId, now, {
    name: "remove-device",
    text: "DELETE FROM messaging_devices WHERE agent_id = $1 AND device_id = $2",
    values: [agentId, deviceId],
  });
}

/**
 * Because its provider says that there is no such device: only if it is still as it was seen, and, with `registeredBefore`, was not said to be
 * right after that time. Answers whether it was taken away. @throws Unavailable
 */
export function forgetDevice(
  postgres: Postgres,
  makeFact: MakeDeviceFact,
  { agentId, deviceId, kind, address, refreshedAt }: Device,
  registeredBefore: number | null,
  now: number,
): Promise<boolean> {
  return takeAway(postgres, makeFact, "device-gone", agentId, deviceId, now, {
    name: "forget-device",
    text: `DELETE FROM messaging_devices WHERE agent_id = $1 AND device_id = $2 AND kind = $3 AND address = $4
             AND refreshed_at = $5 AND refreshed_at < $6`,
    values: [agentId, deviceId, kind, address, refreshedAt, registeredBefore ?? Number.MAX_SAFE_INTEGER],
  });
}

function takeAway(
  postgres: Postgres,
  makeFact: MakeDeviceFact,
  change: DeviceChange,
  agentId: string,
  deviceId: string,
  now: number,
  deletion: { readonly name: string; readonly text: string; readonly values: unknown[] },
): Promise<boolean> {
  return inTransaction(postgres, async (client) => {
    const agent = await lockAgent(client, agentId);
    if (agent === null) return false;
    const { rowCount } = await client.query(deletion);
    if (rowCount === 0) return false;
    await addFact(client, makeFact({ change, agentId, custody: agent.custody, deviceId, changedAt: now }), now);
    return true;
  });
}

/** The provider knows the token in this environment, whatever the agent had said. @throws Unavailable */
export async function moveDevice(db: Queryable, seen: Device, environment: ApnsEnvironment): Promise<void> {
  await db.query({
    name: "move-device",
    text: `UPDATE messaging_devices SET environment = $5
           WHERE agent_id = $1 AND device_id = $2 AND address = $3 AND refreshed_at = $4`,
    values: [seen.agentId, seen.deviceId, seen.address, seen.refreshedAt, environment],
  });
}

/** Of active agents only, the oldest device first. @throws Unavailable */
export async function findDevices(db: Queryable, agentIds: readonly string[]): Promise<readonly Device[]> {
  if (agentIds.length === 0) return [];
  const { rows } = await db.query<DeviceRow>({
    name: "find-devices",
    text: `SELECT d.* FROM unnest($1::text[]) AS i (agent_id)
           JOIN messaging_agents a ON a.agent_id = i.agent_id AND a.status = 'active'
           CROSS JOIN LATERAL (SELECT * FROM messaging_devices d WHERE d.agent_id = i.agent_id OFFSET 0) AS d
           ORDER BY d.agent_id, d.created_at, d.device_id`,
    values: [agentIds],
  });
  return rows.map((row) => ({
    agentId: row.agent_id,
    deviceId: row.device_id,
    kind: row.kind,
    address: row.address,
    environment: row.environment,
    urgency: row.urgency,
    secret: row.secret,
    createdAt: row.created_at,
    refreshedAt: row.refreshed_at,
  }));
}

/** Without what only the push consumer needs. @throws Unavailable */
export async function listDevices(db: Queryable, agentId: string): Promise<readonly DeviceSummary[]> {
  const devices = await findDevices(db, [agentId]);
  return devices.map(({ deviceId, kind, environment, urgency, createdAt, refreshedAt }) => {
    return { deviceId, kind, environment, urgency, createdAt, refreshedAt };
  });
}

interface DeviceRow {
  readonly agent_id: string;
  readonly device_id: string;
  readonly kind: DeviceKind;
  readonly address: string;
  readonly environment: ApnsEnvironment | null;
  readonly urgency: Urgency;
  readonly secret: string | null;
  readonly created_at: number;
  readonly refreshed_at: number;
}
