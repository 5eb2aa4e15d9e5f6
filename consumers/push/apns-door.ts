/**
 * Apple's push service, by @parse/node-apn: one HTTP/2 connection for each of Apple's two environments, one JWT for both.
 *
 * Promise: one call of ours is one request, but for the two that the table allows (the other environment, a new JWT). The client's own retries are
 * off: it knows no Retry-After and would ask four times within milliseconds. Whatever happens is an outcome.
 */
import { randomUUID } from "node:crypto";
import type { ClientHttp2Session, ClientHttp2Stream, IncomingHttpHeaders } from "node:http2";
import { rootCertificates } from "node:tls";
import apn from "@parse/node-apn";
import type { ApnsEnvironment, Device } from "../../store/devices.ts";
import { wakeMs } from "../../store/wakes.ts";
import { type ApnsAnswer, type ApnsOutcome, apnsOutcome } from "./apns-answers.ts";
import { again, answeredWithin, answerMsMax, type Outcome, type PushDoor } from "./outcomes.ts";

interface Address {
  readonly host: string;
  readonly port: number;
}

export interface ApnsOptions {
  /** PEM of the provider's key (.p8). */
  readonly key: string;
  readonly keyId: string;
  readonly teamId: string;
  /** The app's bundle id. */
  readonly topic: string;
  /** Where Apple's hosts are reached instead; their names are checked all the same. */
  readonly addresses: { readonly production: Address | undefined; readonly sandbox: Address | undefined };
  /** PEM, trusted at those addresses beside the usual ones. */
  readonly ca: string | undefined;
}

/** @throws Error when the key is none */
export function openApns({ key, keyId, teamId, topic, addresses, ca }: ApnsOptions): PushDoor {
  const token = { key, keyId, teamId };
  const open = (environment: ApnsEnvironment) => {
    const address = addresses[environment];
    const trusted = ca === undefined || address === undefined ? {} : { ca: [...rootCertificates, ca] };
    // The client hands its options on to the connection: host and port there, the name for TLS and HTTP stays Apple's.
    const options = {
      token,
      production: environment === "production",
      connectionRetryLimit: 0,
      ...trusted,
      ...address,
    };
    return new apn.Provider({ ...options, requestTimeout: answerMsMax } as apn.ProviderOptions);
  };
  const providers = { production: open("production"), sandbox: open("sandbox") };
  // Apple takes a new JWT three times an hour at most.
  insideOf(providers.sandbox).config.token = insideOf(providers.production).config.token;
  const ask = { production: askThrough(providers.production), sandbox: askThrough(providers.sandbox) };

  async function outcomeIn(environment: ApnsEnvironment, device: Device): Promise<ApnsOutcome> {
    const answer = await ask[environment](notificationFor(device, topic), device.address);
    return apnsOutcome(answer, Date.now());
  }

  async function renewed(
    environment: ApnsEnvironment,
    device: Device,
  ): Promise<Exclude<ApnsOutcome, { kind: "renew" }>> {
    const first = await outcomeIn(environment, device);
    if (first.kind !== "renew") return first;
    // The client has made a new one.
    const second = await outcomeIn(environment, device);
    return second.kind === "renew" ? { kind: "fault", code: "provider-token" } : second;
  }

  async function wake(device: Device): Promise<Outcome> {
    const environment = device.environment ?? "production";
    const first = await renewed(environment, device);
    if (first.kind !== "elsewhere") return first;
    const other = environment === "production" ? "sandbox" : "production";
    const second = await renewed(other, device);
    if (second.kind === "elsewhere") return { kind: "foreign", code: "bad-token" };
    return second.kind === "woken" ? { kind: "woken", environment: other } : second;
  }

  return {
    wake: (device) => answeredWithin(2 * answerMsMax, wake(device), again()),
    close: async () => {
      for (const provider of Object.values(providers)) provider.shutdown();
    },
  };
}

/** Background: priority 5, nothing to see. Urgent: a general word that the app may replace. Neither holds a word about the message. */
function notificationFor({ urgency }: Pick<Device, "urgency">, topic: string): apn.Notification {
  const notification = new apn.Notification();
  notification.topic = topic;
  notification.collapseId = "inbox";
  notification.expiry = Math.floor((Date.now() + wakeMs) / 1000);
  notification.payload = { v: 1 };
  if (urgency === "background") {
    notification.pushType = "background";
    notification.priority = 5;
    notification.contentAvailable = true;
  } else {
    notification.pushType = "alert";
    notification.priority = 10;
    notification.mutableContent = true;
    notification.alert = "New activity";
  }
  return notification;
}

/** What the client keeps to itself, and we need: its JWT, and where it sends a request. */
interface Inside {
  readonly config: { token: unknown };
  request(session: Pick<ClientHttp2Session, "request">, ...rest: unknown[]): Promise<unknown>;
}

function insideOf(provider: apn.Provider): Inside {
  const { client } = provider as unknown as { readonly client?: Partial<Inside> };
  if (client?.config?.token === undefined || client.request === undefined) {
    throw new Error("this version of node-apn sends in another way");
  }
  return client as Inside;
}

/** What was answered, by the notification's id: the client loses the status of some answers, and Retry-After of all. */
function askThrough(provider: apn.Provider): (notification: apn.Notification, token: string) => Promise<ApnsAnswer> {
  const answers = new Map<unknown, ApnsAnswer>();
  const inside = insideOf(provider);
  const request = inside.request.bind(inside);
  inside.request = (session, address, built, ...rest) => {
    const id = (built as { readonly headers: Readonly<Record<string, unknown>> }).headers["apns-id"];
    const watched = {
      request: (headers?: unknown) => {
        const stream = session.request(headers as never);
        listen(stream, (answer) => answers.set(id, answer));
        return stream;
      },
    };
    return request(watched, address, built, ...rest);
  };
  return async (notification, token) => {
    notification.id = randomUUID();
    await provider.send(notification, token);
    const answer = answers.get(notification.id) ?? { status: null, reason: null, timestamp: null, retryAfter: null };
    answers.delete(notification.id);
    return answer;
  };
}

function listen(stream: ClientHttp2Stream, onAnswer: (answer: ApnsAnswer) => void): void {
  let head: { readonly status: number | null; readonly retryAfter: string | null } | null = null;
  let text = "";
  stream.on("response", (headers: IncomingHttpHeaders & { readonly ":status"?: number }) => {
    head = { status: headers[":status"] ?? null, retryAfter: headers["retry-after"] ?? null };
    onAnswer({ ...head, reason: null, timestamp: null });
  });
  stream.on("data", (chunk: unknown) => {
    text += String(chunk);
  });
  stream.on("end", () => {
    if (head !== null) onAnswer({ ...head, ...bodyOf(text) });
  });
}

function bodyOf(text: string): Pick<ApnsAnswer, "reason" | "timestamp"> {
  try {
    const { reason, timestamp } = JSON.parse(text) as { readonly reason?: unknown; readonly timestamp?: unknown };
    return {
      reason: typeof reason === "string" ? reason : null,
      timestamp: typeof timestamp === "number" ? timestamp : null,
    };
  } catch {
    return { reason: null, timestamp: null };
  }
}
