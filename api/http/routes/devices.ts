/** Where the caller is woken while it is not connected. */
import { formatTimestamp } from "../../../protocol/timestamp.ts";
import type { DeviceSummary } from "../../../store/devices.ts";
import { ownDevices, registerDevice, unregisterDevice } from "../../operations/devices.ts";
import { deviceAnswer, deviceBody, devicePath, devicesAnswer, removedDeviceAnswer } from "../device-schemas.ts";
import { route } from "../route.ts";

export const putDevice = route({
  method: "PUT",
  path: "/messaging/devices/{id}",
  operationId: "putDevice",
  summary: "Register a device to be woken at",
  description:
    "The id is made by the caller. Again, it replaces what was said before and counts as fresh. A webhook's secret stands in the answer that made it, and nowhere later.",
  signedBy: "agent",
  needsRedis: true,
  request: { path: devicePath, body: deviceBody },
  answers: {
    201: { description: "Registered", schema: deviceAnswer },
    200: { description: "It was there, and is as this call says", schema: deviceAnswer },
  },
  refuses: ["push-unavailable", "webhook-refused", "devices-full", "rate-limited"],
  handle: async (deps, { caller, path, body }) => {
    const { kind, token, url, environment, urgency = "background", new_secret: newSecret = false } = body;
    const { device, created, secret, stale } = await registerDevice(deps, caller, {
      deviceId: path.id,
      kind,
      address: token ?? url ?? "",
      environment: kind === "apns" ? (environment ?? "production") : null,
      urgency,
      newSecret,
    });
    return {
      status: created ? 201 : 200,
      json: { ...toWire({ ...device, stale }), ...(secret === null ? {} : { secret }) },
    };
  },
});

export const deleteDevice = route({
  method: "DELETE",
  path: "/messaging/devices/{id}",
  operationId: "deleteDevice",
  summary: "Forget a device",
  signedBy: "agent",
  needsRedis: true,
  request: { path: devicePath },
  answers: { 200: { description: "It is not there (any more)", schema: removedDeviceAnswer } },
  refuses: [],
  handle: async (deps, { caller, path: { id } }) => ({
    status: 200,
    json: { device_id: id, removed: await unregisterDevice(deps, caller, id) },
  }),
});

export const listDevices = route({
  method: "GET",
  path: "/messaging/devices",
  operationId: "listDevices",
  summary: "See one's devices",
  description: "Without tokens, URLs and secrets.",
  signedBy: "agent",
  request: {},
  answers: { 200: { description: "The oldest first", schema: devicesAnswer } },
  refuses: [],
  handle: async (deps, { caller }) => ({
    status: 200,
    json: { devices: (await ownDevices(deps, caller)).map(toWire) },
  }),
});

function toWire(device: DeviceSummary & { readonly stale: boolean }): Record<string, unknown> {
  return {
    device_id: device.deviceId,
    kind: device.kind,
    ...(device.environment === null ? {} : { environment: device.environment }),
    urgency: device.urgency,
    created_at: formatTimestamp(device.createdAt),
    refreshed_at: formatTimestamp(device.refreshedAt),
    stale: device.stale,
  };
}
