/**
 * The initiation header (protocol.md §3), which every message carries until the initiator has had an answer.
 *
 *     initiation = u8(suite) ‖ IK_A ‖ EK ‖ SPK id ‖ u8(1 if OPK) [‖ OPK id] [suite 2: ‖ KPK id ‖ KCT(1088)]
 */
import { ByteReader, concat } from "./bytes.ts";
import { Refusal } from "./refusal.ts";
import { UUID_BYTES, uuidFromBytes, uuidToBytes } from "./uuid.ts";

const KEY_BYTES = 32;
const KEM_CIPHERTEXT_BYTES = 1_088;

interface InitiationKeys {
  readonly identityKey: Uint8Array;
  readonly ephemeralKey: Uint8Array;
  readonly signedPrekeyId: string;
  readonly oneTimePrekeyId: string | null;
}

/** X3DH. */
export interface Suite1Initiation extends InitiationKeys {
  readonly suite: 1;
}

/** PQXDH. */
export interface Suite2Initiation extends InitiationKeys {
  readonly suite: 2;
  readonly kemPrekeyId: string;
  readonly kemCiphertext: Uint8Array;
}

export type Initiation = Suite1Initiation | Suite2Initiation;

export function encodeInitiation(initiation: Initiation): Uint8Array {
  const { suite, identityKey, ephemeralKey, signedPrekeyId, oneTimePrekeyId } = initiation;
  return concat(
    Uint8Array.of(suite),
    identityKey,
    ephemeralKey,
    uuidToBytes(signedPrekeyId),
    ...(oneTimePrekeyId === null ? [Uint8Array.of(0)] : [Uint8Array.of(1), uuidToBytes(oneTimePrekeyId)]),
    ...(suite === 2 ? [uuidToBytes(initiation.kemPrekeyId), initiation.kemCiphertext] : []),
  );
}

/** Refuses (`malformed`) an unknown suite, a flag above 1 and every wrong length. Keys are views of `bytes`. */
export function decodeInitiation(bytes: Uint8Array): Initiation {
  const reader = new ByteReader(bytes);
  const suite = reader.u8();
  if (suite !== 1 && suite !== 2) throw new Refusal("malformed", { field: "/initiation" });
  const keys: InitiationKeys = {
    identityKey: reader.bytes(KEY_BYTES),
    ephemeralKey: reader.bytes(KEY_BYTES),
    signedPrekeyId: uuidFromBytes(reader.bytes(UUID_BYTES)),
    oneTimePrekeyId: readOptionalId(reader),
  };
  const initiation: Initiation =
    suite === 1
      ? { suite, ...keys }
      : {
          suite,
          ...keys,
          kemPrekeyId: uuidFromBytes(reader.bytes(UUID_BYTES)),
          kemCiphertext: reader.bytes(KEM_CIPHERTEXT_BYTES),
        };
  reader.end();
  return initiation;
}

function readOptionalId(reader: ByteReader): string | null {
  const flag = reader.u8();
  if (flag > 1) throw new Refusal("malformed", { field: "/initiation" });
  return flag === 0 ? null : uuidFromBytes(reader.bytes(UUID_BYTES));
}
