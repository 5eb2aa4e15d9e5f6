/**
 * Webhooks, signed as Standard Webhooks says.
 *
 * Promises: the host's name is looked up for this connection, which goes to a public address or nowhere (no private, loopback, link-local or
 * metadata address, of either family, however written); no redirect is followed; a call takes 3 s and reads 4 KiB of an answer at most. What is
 * sent holds the device's id and nothing about the message.
 */
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { rootCertificates } from "node:tls";
import { RequestFilteringHttpsAgent } from "request-filtering-agent";
import { Webhook } from "standardwebhooks";
import type { Device } from "../../store/devices.ts";
import { lookupBy } from "./name-lookup.ts";
import { again, type Outcome, type PushDoor } from "./outcomes.ts";
import { webhookOutcome } from "./webhook-answers.ts";

export interface WebhookOptions {
  /** For development: http, and addresses of the own network, too. */
  readonly any: boolean;
  /** PEM, trusted beside the usual ones where `any` webhook is called. */
  readonly ca: string | undefined;
  /** Asked for the names of public hosts instead of the system's servers; `address:port`. */
  readonly nameServers?: readonly string[];
}

/** All agents' webhooks share a step: one that is slow on purpose costs the others this much. */
const callMsMax = 3_000;

/** Nothing in it is looked at; read, so that a polite server is not cut off. */
const answerBytesMax = 4 * 1024;

/** A public address that answers with secrets of the machine it is asked from: Azure's. */
const metadataAddresses = ["168.63.129.16"];

export function openWebhooks({ any, ca, nameServers }: WebhookOptions): PushDoor {
  // Without keep-alive: the next call looks the name up anew. What the lookup answers is filtered, and connected to as it is.
  const publicOnly = new RequestFilteringHttpsAgent({
    keepAlive: false,
    denyIPAddressList: metadataAddresses,
    lookup: lookupBy(nameServers),
  });
  const https = any
    ? new HttpsAgent({ keepAlive: false, ...(ca === undefined ? {} : { ca: [...rootCertificates, ca] }) })
    : publicOnly;
  const http = new HttpAgent({ keepAlive: false });

  async function wake(device: Device, wakeId: string): Promise<Outcome> {
    const url = new URL(device.address);
    const isPlain = url.protocol === "http:";
    if (isPlain && !any) return again();
    const body = JSON.stringify({
      type: "inbox.waiting",
      timestamp: new Date().toISOString(),
      data: { device_id: device.deviceId },
    });
    const headers = {
      "content-type": "application/json",
      "user-agent": "sealpost",
      ...signatureOf(device, wakeId, body),
    };
    const options = { method: "POST", headers, signal: AbortSignal.timeout(callMsMax) };
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const call = isPlain
        ? httpRequest(url, { ...options, agent: http })
        : httpsRequest(url, { ...options, agent: https });
      call.on("response", resolve).on("error", reject).end(body);
    });
    await drained(answer);
    return webhookOutcome(answer.statusCode ?? 0, answer.headers["retry-after"] ?? null, Date.now());
  }

  return {
    wake: (device, wakeId) => wake(device, wakeId).catch(() => again()),
    close: async () => {
      https.destroy();
      http.destroy();
    },
  };
}

/** https://www.standardwebhooks.com: `webhook-id` is the same for all attempts of a wake at a device. */
function signatureOf({ deviceId, secret }: Device, wakeId: string, body: string): Record<string, string> {
  if (secret === null) throw new Error("a webhook without a secret");
  const id = `${wakeId}_${deviceId}`;
  const now = new Date();
  return {
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
    "webhook-signature": new Webhook(secret).sign(id, now, body),
  };
}

/** The head has said everything; the rest only has an end. */
function drained(answer: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytes = 0;
    answer.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > answerBytesMax) answer.destroy();
    });
    answer.once("close", resolve).once("error", () => resolve());
  });
}
