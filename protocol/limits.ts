/**
 * Every limit of the protocol, each with the reason for its size. Times are in milliseconds.
 */
const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

/**
 * Bytes of a ciphertext, unless the operator sets otherwise (§6). Less would cut off ordinary tool results; more makes
 * a full mailbox and a batch of Kafka records unwieldy: larger content travels as an attachment.
 */
export const CIPHERTEXT_BYTES_MAX = 65_536;

/** Bytes of an initiation: its length is a u16 in the AAD (§5). The largest real one has 1,202. */
export const INITIATION_BYTES_MAX = 65_535;

/**
 * Messages a receiver lets a sender skip in one chain (§4). Less, and a thousand lost messages end a session; more, and one
 * forged envelope costs more than some 20 ms of hashing.
 */
export const JUMP_MAX = 2_000;

/** Skipped message keys of one session (§4): enough for what a mailbox reorders, few enough to lie sealed in one row. */
export const SKIPPED_KEYS_MAX = 100;

/** Age of a skipped key (§4): as long as a mailbox keeps the message it waits for, and not longer, for forward secrecy. */
export const SKIPPED_KEY_AGE_MS_MAX = 30 * DAY_MS;

/** Earlier ratchet keys of the peer that a session recognises (§4): a message under one of them must not turn the ratchet back. */
export const RATCHET_KEYS_REMEMBERED_MAX = 100;

/** Archived sessions per peer (§4): what may still be under way after a few crossed starts. */
export const ARCHIVED_SESSIONS_MAX = 5;

/**
 * Sessions that one peer may begin with one signed prekey (§3): each is remembered for as long as the prekey's private half. An honest peer begins one an
 * hour at most, in the eight days in which a prekey is handed out and used; without an end, one peer makes its record grow for ever.
 */
export const INITIATIONS_PER_PREKEY_MAX = 256;

/** A start without an answer is not used for sending after this (§4): the mailbox has dropped its first message by then. */
export const UNANSWERED_SESSION_AGE_MS_MAX = 30 * DAY_MS;

/** Messages of one sending chain (§4): half of `JUMP_MAX`, so that the receiver can lose them all and still follow. */
export const CHAIN_MESSAGES_MAX = 1_000;

/** From the next message of a chain on, the sender asks for a rekey (§4). */
export const REKEY_AFTER_MESSAGES = 100;

/** The same while the initiation is still attached: an answer drops it, over 1 KB a message (§4). */
export const REKEY_AFTER_MESSAGES_UNANSWERED = 10;

/** The same by the age of the chain: what was stolen from a running agent opens at most an hour of a live conversation (§4). */
export const REKEY_AFTER_MS = HOUR_MS;

/** Age of a claimed bundle (§2): its prekeys are kept for as long as a message that was begun with it in this time can come. */
export const BUNDLE_AGE_MS_MAX = 24 * HOUR_MS;

/** Age of a signed prekey that an initiator takes (§2): three months in which its owner did not come back to rotate. */
export const SIGNED_PREKEY_AGE_MS_MAX = 90 * DAY_MS;

/** Age of a retry request (§4): the sender keeps content 31 days. */
export const RETRY_REQUEST_AGE_MS_MAX = 30 * DAY_MS;

/** How far a retry request may lie ahead of the clock (§4): as much as ingress grants an id. */
export const RETRY_REQUEST_AHEAD_MS_MAX = 5 * MINUTE_MS;

/** New sessions because of repairs, per peer (§4): one in this time, so that a broken peer cannot make an agent burn prekeys. */
export const REPAIR_SESSION_INTERVAL_MS_MIN = HOUR_MS;

/** How often the content of one message is sent anew (§4): a peer that still cannot open it will not. */
export const REPAIRS_MAX = 5;

/** Age at which a signed prekey, and the KEM prekey of last resort with it, is replaced (§2): what a stolen one opens is a week's first messages. */
export const SIGNED_PREKEY_ROTATION_MS = 7 * DAY_MS;

/** How long the private half of a deprecated signed prekey is kept (§2): 1 day of a fetched bundle, 30 of an unanswered session, 30 in the mailbox, and a margin. */
export const DEPRECATED_PREKEY_KEPT_MS = 62 * DAY_MS;

/** How far the birth of a signed prekey may lie ahead of the clock: as much as ingress grants a message id. */
export const PREKEY_AHEAD_MS_MAX = 5 * MINUTE_MS;

/** Age up to which a one-time prekey is handed out (§2). */
export const ONE_TIME_PREKEY_HANDED_OUT_MS = 30 * DAY_MS;

/** How long the private half of a one-time prekey waits for its message (§2): 30 days to be handed out, 62 until the message has come. */
export const ONE_TIME_PREKEY_KEPT_MS = 92 * DAY_MS;

/** One-time prekeys of a kind in a full stock: what a popular agent's new peers take in a day. */
export const ONE_TIME_PREKEYS_FULL = 100;

/** Below this the stock is filled up. Lower, and a busy hour empties it before its owner has come online. */
export const ONE_TIME_PREKEYS_LOW = 20;

/** One-time prekeys of a kind in one upload: two full stocks; more only makes one transaction long. */
export const PREKEY_UPLOAD_MAX = 200;
