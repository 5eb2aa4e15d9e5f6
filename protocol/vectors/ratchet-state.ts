import { ByteWriter, concat, join } from "../bytes.ts";
import type { Primitives } from "../primitives/primitives.ts";
import { liveSkippedKeys, type Ratchet, type SkippedKey } from "../ratchet.ts";
import type { Session } from "../session.ts";
import type { Checks, Fields } from "./case.ts";

const ABSENT = new Uint8Array(32);

/** All that a transcript tells of a session's state. */
export function checkState(primitives: Primitives, checks: Checks, state: Fields, session: Session, now: number): void {
  const { ratchet } = session;
  const skipped = liveSkippedKeys(ratchet, now);
  checks.equal("root_key", ratchet.rootKey, state.bytes("root_key"));
  checks.equal("dh_public_key", ratchet.own.publicKey, state.bytes("dh_public_key"));
  checks.equal("peer_dh_public_key", ratchet.peerKey, state.nullableBytes("peer_dh_public_key"));
  checks.equal("send_chain_key", ratchet.sending?.key ?? null, state.nullableBytes("send_chain_key"));
  checks.equal("receive_chain_key", ratchet.receiving?.key ?? null, state.nullableBytes("receive_chain_key"));
  checks.equal("send_counter", ratchet.sending?.counter ?? 0, state.number("send_counter"));
  checks.equal("receive_counter", ratchet.receiving?.counter ?? 0, state.number("receive_counter"));
  checks.equal("previous_counter", ratchet.previousCounter, state.number("previous_counter"));
  checks.equal("skipped", skipped.length, state.number("skipped"));
  checks.equal("skipped_digest", primitives.sha256(skippedBytes(skipped)), state.bytes("skipped_digest"));
  checks.equal("digest", stateDigest(primitives, ratchet, now), state.bytes("digest"));
  state.end();
}

/** The digest that the notes of the ratchet vectors define. */
export function stateDigest(primitives: Primitives, ratchet: Ratchet, now: number): Uint8Array {
  const skipped = liveSkippedKeys(ratchet, now);
  return primitives.sha256(
    concat(
      ratchet.rootKey,
      ratchet.own.publicKey,
      ratchet.peerKey ?? ABSENT,
      ratchet.sending?.key ?? ABSENT,
      ratchet.receiving?.key ?? ABSENT,
      u32(ratchet.sending?.counter ?? 0),
      u32(ratchet.receiving?.counter ?? 0),
      u32(ratchet.previousCounter),
      u32(skipped.length),
      skippedBytes(skipped),
    ),
  );
}

function skippedBytes(skipped: readonly SkippedKey[]): Uint8Array {
  return join(skipped.flatMap(({ ratchetKey, counter, messageKey }) => [ratchetKey, u32(counter), messageKey]));
}

function u32(value: number): Uint8Array {
  return new ByteWriter(4).u32(value).finish();
}
