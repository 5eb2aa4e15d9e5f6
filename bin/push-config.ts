/**
 * What of the environment is about waking devices.
 */
import { z } from "zod";
import type { DeviceKind } from "../store/devices.ts";

/** Where a provider answers instead of its own name: a proxy, or a stand-in for it. */
const hostAndPort = z
  .string()
  .regex(/^[A-Za-z0-9.-]+:\d{1,5}$/, { error: "host:port" })
  .transform((text) => {
    const colon = text.lastIndexOf(":");
    return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) };
  });

const environment = z
  .object({
    /** JSON, from the Firebase console; without it nothing is sent through FCM. */
    SEALPOST_FCM_SERVICE_ACCOUNT_FILE: z.string().min(1).optional(),
    SEALPOST_FCM_ADDRESS: hostAndPort.optional(),
    /** The .p8 file of the provider's key; with its id, the team's, and the app's bundle id. */
    SEALPOST_APNS_KEY_FILE: z.string().min(1).optional(),
    SEALPOST_APNS_KEY_ID: z.string().min(1).optional(),
    SEALPOST_APNS_TEAM_ID: z.string().min(1).optional(),
    SEALPOST_APNS_TOPIC: z.string().min(1).optional(),
    SEALPOST_APNS_ADDRESS: hostAndPort.optional(),
    SEALPOST_APNS_SANDBOX_ADDRESS: hostAndPort.optional(),
    /** PEM; trusted beside the usual authorities where an address of a provider is given, and for webhooks of `any`. */
    SEALPOST_PUSH_CA_FILE: z.string().min(1).optional(),
    /** `public`: https to public addresses. `any`: http and private addresses, too, for development. */
    SEALPOST_WEBHOOKS: z.enum(["public", "any", "off"]).default("public"),
  })
  .transform((values, context): PushConfig => {
    const { SEALPOST_FCM_SERVICE_ACCOUNT_FILE: serviceAccountFile, SEALPOST_APNS_KEY_FILE: keyFile } = values;
    const [keyId, teamId, topic] = [
      values.SEALPOST_APNS_KEY_ID,
      values.SEALPOST_APNS_TEAM_ID,
      values.SEALPOST_APNS_TOPIC,
    ];
    const base = { caFile: values.SEALPOST_PUSH_CA_FILE, webhooks: values.SEALPOST_WEBHOOKS };
    const fcm =
      serviceAccountFile === undefined ? undefined : { serviceAccountFile, address: values.SEALPOST_FCM_ADDRESS };
    if (keyFile === undefined) return { ...base, fcm, apns: undefined };
    if (keyId !== undefined && teamId !== undefined && topic !== undefined) {
      const { SEALPOST_APNS_ADDRESS: production, SEALPOST_APNS_SANDBOX_ADDRESS: sandbox } = values;
      return { ...base, fcm, apns: { keyFile, keyId, teamId, topic, addresses: { production, sandbox } } };
    }
    context.addIssue({
      code: "custom",
      path: ["SEALPOST_APNS_KEY_FILE"],
      message: "with SEALPOST_APNS_KEY_ID, _TEAM_ID and _TOPIC",
    });
    return z.NEVER;
  });

export interface HostAndPort {
  readonly host: string;
  readonly port: number;
}

export interface PushConfig {
  readonly fcm: { readonly serviceAccountFile: string; readonly address: HostAndPort | undefined } | undefined;
  readonly apns:
    | {
        readonly keyFile: string;
        readonly keyId: string;
        readonly teamId: string;
        readonly topic: string;
        readonly addresses: {
          readonly production: HostAndPort | undefined;
          readonly sandbox: HostAndPort | undefined;
        };
      }
    | undefined;
  readonly caFile: string | undefined;
  readonly webhooks: "public" | "any" | "off";
}

/** @throws what `parse` throws for variables that are wrong */
export function readPushConfig(parse: (schema: z.ZodType<PushConfig>) => PushConfig): PushConfig {
  return parse(environment);
}

/** What this service can wake. */
export function kindsOf({ fcm, apns, webhooks }: PushConfig): ReadonlySet<DeviceKind> {
  const kinds = new Set<DeviceKind>();
  if (fcm !== undefined) kinds.add("fcm");
  if (apns !== undefined) kinds.add("apns");
  if (webhooks !== "off") kinds.add("webhook");
  return kinds;
}
