/**
 * Firebase Cloud Messaging, by its Admin SDK.
 *
 * Promise: one call of ours is one request: the SDK's own retries, which would sleep in a handler, are off. Whatever happens is an outcome.
 */
import { randomUUID } from "node:crypto";
import { Agent } from "node:https";
import type { Socket } from "node:net";
import { rootCertificates } from "node:tls";
import { cert, deleteApp, initializeApp } from "firebase-admin/app";
import { getMessaging, type Message, type Messaging } from "firebase-admin/messaging";
import type { Device } from "../../store/devices.ts";
import { wakeMs } from "../../store/wakes.ts";
import { fcmOutcome } from "./fcm-answers.ts";
import { again, answeredWithin, answerMsMax, type Outcome, type PushDoor, woken } from "./outcomes.ts";

export interface FcmOptions {
  /** The service account's JSON. */
  readonly serviceAccountFile: string;
  /** Where Google's hosts are reached instead; their names are checked all the same. */
  readonly address: { readonly host: string; readonly port: number } | undefined;
  /** PEM, trusted at that address beside the usual ones. */
  readonly ca: string | undefined;
}

/** @throws Error when the file holds no service account */
export function openFcm({ serviceAccountFile, address, ca }: FcmOptions): PushDoor {
  const agent = address === undefined ? new Agent({ keepAlive: true }) : new ElsewhereAgent(address, ca);
  // By its path: an account that is given as an object fetches its tokens without the agent.
  const credential = cert(serviceAccountFile, agent);
  const app = initializeApp({ credential, httpAgent: agent }, `sealpost-${randomUUID()}`);
  const messaging = getMessaging(app);
  switchRetriesOff(messaging);
  return {
    wake: (device) => answeredWithin(answerMsMax, send(messaging, device), again()),
    close: async () => {
      await deleteApp(app);
      agent.destroy();
    },
  };
}

/** Data only, without a word about the message: `collapseKey` leaves one in the provider's queue. */
function fcmMessage({ address: token, urgency }: Device): Message {
  return {
    token,
    data: { v: "1", wake: "inbox" },
    android: { priority: urgency === "urgent" ? "high" : "normal", collapseKey: "inbox", ttl: wakeMs },
    // What FCM hands on to Apple must have priority 5 when it is data only.
    apns: {
      headers: { "apns-priority": "5", "apns-push-type": "background", "apns-collapse-id": "inbox" },
      payload: { aps: { contentAvailable: true } },
    },
  };
}

async function send(messaging: Messaging, device: Device): Promise<Outcome> {
  try {
    await messaging.send(fcmMessage(device));
    return woken;
  } catch (error) {
    const { code, httpResponse } = error as { readonly code?: unknown; readonly httpResponse?: HttpResponse };
    if (httpResponse !== undefined) {
      const { status, data: body, headers } = httpResponse;
      const retryAfter = headers?.["retry-after"];
      return fcmOutcome({ status, body, retryAfter: typeof retryAfter === "string" ? retryAfter : null }, Date.now());
    }
    // The token server refuses our service account, or is away; the SDK does not say which.
    if (code === "app/invalid-credential") return { kind: "fault", code: "credential" };
    return again();
  }
}

interface HttpResponse {
  readonly status: number;
  readonly headers?: Readonly<Record<string, unknown>>;
  readonly data?: unknown;
}

/** The SDK retries 503 up to four times, for as long as Retry-After says, and has no setting for it. */
function switchRetriesOff(messaging: Messaging): void {
  const { messagingRequestHandler: handler } = messaging as unknown as {
    readonly messagingRequestHandler?: { readonly httpClient?: { retry?: unknown } };
  };
  if (handler?.httpClient?.retry === undefined)
    throw new Error("this version of firebase-admin retries in another way");
  handler.httpClient.retry = undefined;
}

/** Connects to one place, whatever host is asked for; TLS still checks the host's name. */
class ElsewhereAgent extends Agent {
  readonly #address: { readonly host: string; readonly port: number };
  readonly #ca: readonly string[] | undefined;

  constructor(address: { readonly host: string; readonly port: number }, ca: string | undefined) {
    super({ keepAlive: true });
    this.#address = address;
    this.#ca = ca === undefined ? undefined : [...rootCertificates, ca];
  }

  override createConnection(options: object, callback?: (error: Error | null, socket: Socket) => void) {
    const { host, servername } = options as { readonly host?: string; readonly servername?: string };
    const name = servername ?? host;
    const trusted = this.#ca === undefined ? {} : { ca: [...this.#ca] };
    const changed = { ...options, ...this.#address, ...trusted, ...(name === undefined ? {} : { servername: name }) };
    return super.createConnection(changed as never, callback as never);
  }
}
