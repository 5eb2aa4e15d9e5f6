/** Devices that are woken. */
import { z } from "zod";
import "zod-openapi";
import { timestamp, uuid } from "./value-schemas.ts";

export const devicePath = z.strictObject({ id: uuid });

/** Longer URLs are cut by servers and proxies on the way. */
const WEBHOOK_URL_LENGTH_MAX = 2_048;

/** FCM sets no limit; its tokens have some 160 characters. */
const TOKEN_LENGTH_MAX = 4_096;

/** Hexadecimal; Apple: of variable length, today 32 bytes. */
const APNS_TOKEN = /^[0-9a-fA-F]{64,200}$/;

export const deviceBody = z
  .strictObject({
    kind: z.enum(["fcm", "apns", "webhook"]),
    token: z
      .string()
      .regex(/^[\x21-\x7e]+$/, { error: "not a token" })
      .max(TOKEN_LENGTH_MAX)
      .optional()
      .describe("Of fcm (registration token) and apns (device token, hexadecimal)"),
    url: z
      .string()
      .regex(/^[\x21-\x7e]+$/, { error: "not a URL" })
      .max(WEBHOOK_URL_LENGTH_MAX)
      .optional()
      .describe("Of webhook: https, a public host's name"),
    environment: z.enum(["production", "sandbox"]).optional().describe("Of apns; default production"),
    urgency: z
      .enum(["background", "urgent"])
      .optional()
      .describe("background (default): the app is woken unseen; urgent: at once, and the user sees a general notice"),
    new_secret: z.literal(true).optional().describe("Of webhook: it gets another secret"),
  })
  .superRefine((device, { addIssue }) => {
    const allowed = { fcm: ["token"], apns: ["token", "environment"], webhook: ["url", "new_secret"] }[device.kind];
    const [needed = ""] = allowed;
    for (const member of ["token", "url", "environment", "new_secret"] as const) {
      const isThere = device[member] !== undefined;
      if (!isThere && member === needed) {
        addIssue({ code: "custom", path: [member], message: "this member is missing" });
      }
      if (isThere && !allowed.includes(member)) {
        addIssue({ code: "custom", path: [member], message: "this member is for devices of another kind" });
      }
    }
    if (device.kind === "apns" && device.token !== undefined && !APNS_TOKEN.test(device.token)) {
      addIssue({ code: "custom", path: ["token"], message: "not a device token of APNs in hexadecimal" });
    }
  })
  .meta({ id: "DeviceRegistration", example: { kind: "webhook", url: "https://agent.example.com/wake" } });

const deviceMembers = {
  device_id: uuid,
  kind: z.enum(["fcm", "apns", "webhook"]),
  environment: z.enum(["production", "sandbox"]).optional().describe("Of apns"),
  urgency: z.enum(["background", "urgent"]),
  created_at: timestamp,
  refreshed_at: timestamp.describe("When it was last registered"),
  stale: z.boolean().describe("Not registered again for 30 days"),
};

export const deviceAnswer = z
  .strictObject({
    ...deviceMembers,
    secret: z.string().optional().describe("Of a webhook, when it is new: whsec_…, for verifying calls; shown once"),
  })
  .meta({ id: "RegisteredDevice" });

export const devicesAnswer = z
  .strictObject({ devices: z.array(z.strictObject(deviceMembers).meta({ id: "Device" })) })
  .meta({ id: "Devices" });

export const removedDeviceAnswer = z
  .strictObject({ device_id: uuid, removed: z.boolean().describe("It was there") })
  .meta({ id: "RemovedDevice" });
