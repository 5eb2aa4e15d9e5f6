/**
 * An agent's devices: where it is woken while it is not connected.
 *
 * Promise: an agent has its own devices only; a token or URL is never shown again, a webhook's secret once. What this service cannot wake is
 * refused here and not accepted in vain.
 */
import type { DeviceKind, DeviceRegistration, DeviceSummary, RegisteredDevice } from "../../store/devices.ts";
import type { Limit, LimitsDoor } from "../../store/limits.ts";
import type { Caller } from "../auth.ts";
import { ApiRefusal } from "../problem.ts";

export interface DevicesDeps {
  /** What this service can wake. `http` and addresses of the own network only where the operator allows it for development. */
  readonly push: { readonly kinds: ReadonlySet<DeviceKind>; readonly anyWebhook: boolean };
  /** In one transaction with its fact. Throws `Refusal` `devices-full`, `Unavailable`. */
  readonly putDevice: (registration: DeviceRegistration, now: number) => Promise<RegisteredDevice>;
  readonly removeDevice: (
    device: { readonly agentId: string; readonly deviceId: string },
    now: number,
  ) => Promise<boolean>;
  readonly listDevices: (agentId: string) => Promise<readonly DeviceSummary[]>;
  readonly limits: LimitsDoor;
  /** ms since the epoch. */
  readonly now: () => number;
}

export type DeviceInput = Omit<DeviceRegistration, "agentId">;

/** An app says at each start that its token is right; each change is a fact for the world. */
const REGISTRATIONS_PER_HOUR: Limit = { name: "devices", points: 60, seconds: 3_600 };

/** Firebase's advice: a token nobody has confirmed for a month is likely of nobody. */
const STALE_MS = 30 * 24 * 60 * 60 * 1000;

/** @throws ApiRefusal `push-unavailable`, `webhook-refused`, `rate-limited`; `Refusal` `devices-full`; `Unavailable` */
export async function registerDevice(
  deps: DevicesDeps,
  caller: Caller,
  input: DeviceInput,
): Promise<RegisteredDevice & { readonly stale: boolean }> {
  if (!deps.push.kinds.has(input.kind)) throw new ApiRefusal("push-unavailable", { field: "/kind" });
  if (input.kind === "webhook") checkWebhook(input.address, deps.push.anyWebhook);
  const { allowed, retryAfterMs } = await deps.limits.consume(REGISTRATIONS_PER_HOUR, caller.agentId);
  if (!allowed) throw new ApiRefusal("rate-limited", { retryAfterMs });
  return { ...(await deps.putDevice({ ...input, agentId: caller.agentId }, deps.now())), stale: false };
}

/** Answers whether it was there. @throws Unavailable */
export function unregisterDevice(deps: DevicesDeps, caller: Caller, deviceId: string): Promise<boolean> {
  return deps.removeDevice({ agentId: caller.agentId, deviceId }, deps.now());
}

/** The oldest first. @throws Unavailable */
export async function ownDevices(
  deps: DevicesDeps,
  caller: Caller,
): Promise<readonly (DeviceSummary & { readonly stale: boolean })[]> {
  const now = deps.now();
  const devices = await deps.listDevices(caller.agentId);
  return devices.map((device) => ({ ...device, stale: now - device.refreshedAt > STALE_MS }));
}

const HTTPS_PORT = 443;
const USER_PORT_MIN = 1024;

/** By its form: what its name stands for is looked at with every call, for a name may change its mind. */
function checkWebhook(text: string, isAnyAllowed: boolean): void {
  const refuse = (detail: string) => new ApiRefusal("webhook-refused", { field: "/url", detail });
  if (!URL.canParse(text)) throw refuse("this is no URL");
  const url = new URL(text);
  if (url.username !== "" || url.password !== "") throw refuse("the URL names a user");
  if (url.hash !== "") throw refuse("the URL has a fragment");
  if (isAnyAllowed && url.protocol === "http:") return;
  if (url.protocol !== "https:") throw refuse("the URL is not https");
  if (isAnyAllowed) return;
  const port = url.port === "" ? HTTPS_PORT : Number(url.port);
  if (port !== HTTPS_PORT && port < USER_PORT_MIN) throw refuse("the port is one of other services");
  // Node writes every spelling of an IPv4 address as four numbers, and IPv6 in brackets.
  if (!/[a-z]/i.test(url.hostname.split(".").at(-1) ?? "") || url.hostname.startsWith("[")) {
    throw refuse("the URL names an address and no host");
  }
  if (!url.hostname.includes(".")) throw refuse("the host's name is one of a private network");
}
