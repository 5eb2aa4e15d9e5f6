/**
 * What commands say: opened, checked, and as it is kept beside their envelopes.
 *
 * Only here content is seen. What does not open, or could not be said anew, is its sender's fault and nobody else's.
 */
import { EMPTY } from "../../protocol/bytes.ts";
import { decodeFrame, type Frame } from "../../protocol/frame.ts";
import { CIPHERTEXT_BYTES_MAX } from "../../protocol/limits.ts";
import { Refusal } from "../../protocol/refusal.ts";
import { fitsAnew } from "../../protocol/repair-parameter.ts";
import { isProtocolsOwn, REKEY_CONTENT_TYPE } from "../../protocol/session.ts";
import type { MessageSend } from "../../schemas/values.ts";
import type { DoneCommand, NewCommand, RecalledCommand } from "../../store/custody/commands.ts";
import { type CustodyKeys, contentOf } from "../../store/custody/custody-keys.ts";
import type { Ingress, IngressCode } from "../../store/ingress.ts";
import { messageName } from "../../store/messages.ts";

export interface ContentDeps {
  readonly keys: Pick<CustodyKeys, "sealSaid" | "commandMac">;
  readonly ingress: Pick<Ingress, "open">;
}

/** What a command is kept with, beside its envelope. */
export type Said = Pick<NewCommand, "hmac" | "content" | "firstId" | "repairs">;

/** What the answer to a rekey request says. */
export const REKEY: Frame = { contentType: REKEY_CONTENT_TYPE, body: EMPTY };

const EPOCH_CODES: ReadonlySet<string> = new Set<IngressCode>(["epoch-gone", "epoch-unknown"]);

/** @throws Refusal as `Ingress.open` does, `malformed`, and `too-large`: ingress has not seen what its sender sealed */
async function openContent({ ingress }: ContentDeps, value: MessageSend): Promise<Frame> {
  const frame = decodeFrame(await ingress.open(value, value.sealed));
  if (typeof frame === "string" || isProtocolsOwn(frame.contentType)) throw new Refusal("malformed");
  if (!fitsAnew(frame, CIPHERTEXT_BYTES_MAX)) throw new Refusal("too-large");
  return frame;
}

/**
 * A code for what its sender sealed wrongly: that is told, and nobody could do anything with a dead letter of it.
 *
 * @throws Refusal `epoch-gone`, `epoch-unknown`: an operator may have the key
 */
export async function contentOrFault(deps: ContentDeps, value: MessageSend): Promise<Frame | string> {
  try {
    return await openContent(deps, value);
  } catch (error) {
    if (error instanceof Refusal && !EPOCH_CODES.has(error.code)) return error.code;
    throw error;
  }
}

/** What is said for the first time. The MAC is of what is said, not of how its sender padded it. */
export function firstSaid({ keys }: Pick<ContentDeps, "keys">, value: MessageSend, frame: Frame): Said {
  const content = contentOf(frame);
  const hmac = value.kind === "message" ? keys.commandMac(value, content) : EMPTY;
  return { hmac, content: keys.sealSaid(value, content), firstId: null, repairs: 0 };
}

/** Of a message, or the answer to a rekey request. Null when it does not open (any more), or the agent's keys are gone. */
export async function saidOrNull(deps: ContentDeps, value: MessageSend): Promise<Said | null> {
  try {
    return firstSaid(deps, value, value.kind === "rekey" ? REKEY : await openContent(deps, value));
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

/**
 * What those commands say whose envelopes a recovery brought back (docs/restore.md): of those that are read again under a name, the first that opens is the one that
 * was encrypted. Answers of Repair take theirs from what they answer (answering.ts).
 */
export async function recallContents(
  deps: ContentDeps,
  values: readonly MessageSend[],
  done: ReadonlyMap<string, DoneCommand>,
): Promise<readonly RecalledCommand[]> {
  const recalled = new Map<string, RecalledCommand>();
  for (const value of values) {
    const name = messageName(value);
    const before = done.get(name);
    if (before === undefined || before.hmac !== null || recalled.has(name)) continue;
    const bringsContent = value.kind === "message" || value.kind === "rekey";
    const said = bringsContent ? await saidOrNull(deps, value) : null;
    if (said !== null) recalled.set(name, { ...before, ...said });
  }
  return [...recalled.values()];
}
