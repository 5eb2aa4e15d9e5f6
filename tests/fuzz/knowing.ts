/**
 * Puts what means something in place of some of what a fuzzer made up, so that its inputs get past the first doors: agents that exist, keys that are really there, envelopes
 * that were sealed. And chooses who signs.
 */
import { encodeBase64Url } from "../../protocol/base64url.ts";
import { envelopeToJson } from "../../protocol/envelope.ts";
import type { Identity } from "../../protocol/identity.ts";
import { makeMessageId } from "../../protocol/message-id.ts";
import { nodeRandom } from "../../protocol/primitives/node.ts";
import type { Chance } from "../../sdk/chance.ts";
import type { RawSender } from "../raw-sender.ts";
import { newIdentity } from "../signing.ts";
import type { Operation } from "./signing-proxy.ts";
import type { Stage } from "./stage.ts";

const KNOWN_SHARE = 0.5;
/** Of a sealed envelope, so many have one member as it was made up. */
const CHANGED_SHARE = 0.4;
/** What agents of server custody are for; other calls are theirs, too, but rarely. */
const HELD = new Set(["POST /messaging/messages", "POST /messaging/open", "GET /messaging/ingress-key"]);
const HELD_SHARE = 0.1;

type Json = Record<string, unknown>;

export interface Meant {
  readonly path: string;
  readonly body: Buffer;
  readonly signer: Identity;
  /** What it signs as, where that is not its own id. */
  readonly keyid?: string;
}

export function meant(operation: Operation, path: string, body: Buffer, stage: Stage, chance: Chance): Meant {
  const caller = chance.choose(stage.callers);
  const held = chance.choose(stage.held);
  if (caller === null || held === null) throw new Error("there are no callers");
  const isHeld = chance.happens(HELD.has(operation.name) ? 1 - HELD_SHARE : HELD_SHARE);
  const signer = isHeld ? { signer: held.access, keyid: held.id } : { signer: caller.me };
  const known = { path: withKnownIds(operation, path, stage, chance), body, ...signer };
  if (body.length === 0 || !chance.happens(KNOWN_SHARE)) return known;
  if (operation.name === "POST /messaging/agents") return { ...known, ...newcomer(body) };
  const named = withKnownMembers(body, stage, chance);
  if (operation.name !== "POST /messaging/send") return { ...known, body: named };
  return { path: known.path, body: withSealed(named, caller, stage, chance), signer: caller.me };
}

/** Whose registration holds: signed by the key that it names. */
function newcomer(body: Buffer): Pick<Meant, "body" | "signer"> {
  const signer = newIdentity();
  const asked = parsed(body);
  const key = encodeBase64Url(signer.signing.publicKey);
  const isServers = asked?.["custody"] === "server";
  const json = isServers ? { custody: "server", access_key: key } : { identity_key: key };
  return { body: Buffer.from(JSON.stringify(json)), signer };
}

/** As many sealed envelopes as there were made up ones; some members stay as they were made up. */
function withSealed(body: Buffer, caller: RawSender, stage: Stage, chance: Chance): Buffer {
  const asked = parsed(body)?.["envelopes"];
  if (!Array.isArray(asked)) return body;
  const envelopes = asked.map((madeUp: unknown) => {
    const sealed = { ...envelopeToJson(caller.seal(stage.recipientId, "fuzz")) };
    if (typeof madeUp !== "object" || madeUp === null || !chance.happens(CHANGED_SHARE)) return sealed;
    const member = chance.choose(Object.entries(madeUp));
    return member === null ? sealed : { ...sealed, [member[0]]: member[1] };
  });
  return Buffer.from(JSON.stringify({ envelopes }));
}

function withKnownIds({ path, parameters }: Operation, text: string, stage: Stage, chance: Chance): string {
  const values = path.exec(text)?.slice(1) ?? [];
  let at = 0;
  const isOwners = /^\/(ops|owners)\//.test(text);
  return text
    .split("/")
    .map((part) => {
      if (at >= values.length || part !== values[at]) return part;
      const name = parameters[at++] ?? "";
      if (!/^(id|agent|peer|recipient)$/.test(name) || !chance.happens(KNOWN_SHARE)) return part;
      return (isOwners ? chance.choose(stage.victims) : someAgent(stage, chance)) ?? part;
    })
    .join("/");
}

/** Members of a JSON body that name agents, and ids of messages that are to be new. */
function withKnownMembers(body: Buffer, stage: Stage, chance: Chance): Buffer {
  const text = body.toString("utf8");
  if (!text.includes('_id"')) return body;
  const replaced = text.replaceAll(
    /"(sender_id|recipient_id|agent_id|message_id)"\s*:\s*"[^"]*"/g,
    (_all, name: string) => {
      const value = name === "message_id" ? makeMessageId(Date.now(), nodeRandom) : someAgent(stage, chance);
      return JSON.stringify({ [name]: value }).slice(1, -1);
    },
  );
  return Buffer.from(replaced);
}

/** One that has prekeys as often as one that has none. */
function someAgent({ callers, held, recipientId }: Stage, chance: Chance): string {
  const withoutPrekeys = chance.choose(callers)?.me.agentId;
  const withPrekeys = chance.choose([recipientId, ...held.map(({ id }) => id)]);
  return (chance.happens(0.5) ? withPrekeys : withoutPrekeys) ?? recipientId;
}

function parsed(body: Buffer): Json | null {
  try {
    return JSON.parse(body.toString("utf8")) as Json | null;
  } catch {
    return null;
  }
}
