/**
 * The dozen functions of PKCS#11 (Cryptoki 2.40) that root keys need, called in the module the operator names. The only place that knows C.
 *
 * Structures are laid out as on every Unix: CK_ULONG is the C `unsigned long`, nothing is packed. Calls are synchronous: a local token answers
 * in microseconds, a network HSM in about a millisecond, and unwrapped keys are kept for a minute.
 */
import koffi from "koffi";
import { type KeyringCode, KeyringError } from "./keyring.ts";

const CKR_OK = 0;
const CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191;
const CKR_USER_ALREADY_LOGGED_IN = 0x100;
/** What is said of ciphertext that does not verify: CKR_ENCRYPTED_DATA_INVALID, …_LEN_RANGE, and by SoftHSM CKR_GENERAL_ERROR. */
const CKR_NOT_AUTHENTIC: ReadonlySet<number> = new Set([0x40, 0x41, 0x05]);
const CKR_WRONG_HANDLE: ReadonlySet<number> = new Set([0x60, 0x82]);

/** Return values with a name of their own (pkcs11t.h); all others are a `token-fault`. */
const CODES: ReadonlyMap<number, KeyringCode> = new Map([
  [0xa0, "pin-wrong"],
  [0xa1, "pin-wrong"],
  [0xa2, "pin-wrong"],
  [0xa3, "pin-locked"],
  [0xa4, "pin-locked"],
  [0x102, "pin-locked"],
  [0xe0, "token-missing"],
  [0xe1, "token-missing"],
]);

const CKF_OS_LOCKING_OK = 2;
const CKF_RW_SESSION = 2;
const CKF_SERIAL_SESSION = 4;
const CKU_USER = 1;
const CKO_SECRET_KEY = 4;
const CKK_AES = 0x1f;
const CKM_AES_KEY_GEN = 0x1080;
const CKM_AES_GCM = 0x1087;

const CKA_CLASS = 0x00;
const CKA_TOKEN = 0x01;
const CKA_PRIVATE = 0x02;
const CKA_LABEL = 0x03;
const CKA_KEY_TYPE = 0x100;
const CKA_SENSITIVE = 0x103;
const CKA_ENCRYPT = 0x104;
const CKA_DECRYPT = 0x105;
const CKA_WRAP = 0x106;
const CKA_UNWRAP = 0x107;
const CKA_VALUE_LEN = 0x161;
const CKA_EXTRACTABLE = 0x162;
const CKA_NEVER_EXTRACTABLE = 0x164;

const KEY_LENGTH = 32;
const TAG_BYTES = 16;
const YES = Uint8Array.of(1);
const NO = Uint8Array.of(0);
const LABEL_BYTES_MAX = 255;
const HANDLES_AT_ONCE = 64;
const SLOTS_MAX = 256;

/** A token that is really missing is named after a tenth of a second. */
const LOOKS_MAX = 3;
const LOOK_AGAIN_MS = 50;
const WORD_BYTES = koffi.sizeof("ulong");

const MECHANISM = koffi.struct({ mechanism: "ulong", parameter: "void *", parameterLength: "ulong" });
const GCM = koffi.struct({
  iv: "void *",
  ivLength: "ulong",
  ivBits: "ulong",
  aad: "void *",
  aadLength: "ulong",
  tagBits: "ulong",
});
const ATTRIBUTE = koffi.struct({ type: "ulong", value: "void *", valueLength: "ulong" });
const INITIALIZE = koffi.struct({
  createMutex: "void *",
  destroyMutex: "void *",
  lockMutex: "void *",
  unlockMutex: "void *",
  flags: "ulong",
  reserved: "void *",
});
/** CK_TOKEN_INFO begins with the label, 32 bytes filled up with blanks; the rest is shorter than this. */
const TOKEN_INFO_BYTES = 1_024;
const TOKEN_LABEL_BYTES = 32;

const WORD_OUT = koffi.out(koffi.pointer("ulong"));
const WORD_INOUT = koffi.inout(koffi.pointer("ulong"));
const WORDS = koffi.pointer("ulong");
const BYTES = koffi.pointer("uint8_t");
const ATTRIBUTES = koffi.pointer(ATTRIBUTE);
const HOW = koffi.pointer(MECHANISM);

/** The token's number for a session's key. */
export type KeyHandle = number | bigint;

/** A module, loaded once per process and not finalised while there may be a session: that would end everybody's. */
export interface Cryptoki {
  /**
   * A session with the token of this label, logged in as its user.
   *
   * @throws KeyringError `token-missing`, `pin-wrong`, `pin-locked`, `token-fault`
   */
  open(tokenLabel: string, pin: string): TokenSession;
}

/** Methods throw `KeyringError`, for a key that is gone `StaleHandle`. */
export interface TokenSession {
  /** The AES keys on the token. `inside`: sensitive, and never extractable since it was made. */
  keys(): { readonly handle: KeyHandle; readonly label: string; readonly inside: boolean }[];
  /** An AES-256 key that never leaves the token, for `encrypt` and `decrypt` only. */
  generateKey(label: string): void;
  destroyKey(handle: KeyHandle): void;
  /** AES-256-GCM: the ciphertext, and behind it the tag of 16 bytes. */
  encrypt(handle: KeyHandle, iv: Uint8Array, aad: Uint8Array, plaintext: Uint8Array): Uint8Array;
  /** Null when it does not verify, or when the token says no more than that something is wrong. */
  decrypt(handle: KeyHandle, iv: Uint8Array, aad: Uint8Array, sealed: Uint8Array): Uint8Array | null;
  close(): void;
}

/** The key was destroyed, by this process or another. */
export class StaleHandle extends KeyringError {
  constructor(cause: unknown) {
    super("token-fault", cause);
  }
}

const loaded = new Map<string, Cryptoki>();

/** @throws KeyringError `module-missing` */
export function loadCryptoki(modulePath: string): Cryptoki {
  const known = loaded.get(modulePath);
  if (known !== undefined) return known;
  const functions = bind(modulePath);
  const cryptoki: Cryptoki = {
    open: (tokenLabel, pin) => {
      for (let attempt = 1; ; attempt++) {
        const rv = functions.initialize({ flags: CKF_OS_LOCKING_OK });
        if (rv !== CKR_CRYPTOKI_ALREADY_INITIALIZED) check(rv);
        const slot = slotOf(functions, tokenLabel);
        if (slot !== null) return openSession(functions, slot, pin);
        // Modules look for tokens when they are initialised; one that another process is writing to at that moment they may miss.
        if (rv === CKR_CRYPTOKI_ALREADY_INITIALIZED || attempt === LOOKS_MAX) throw new KeyringError("token-missing");
        functions.finalize(null);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK_AGAIN_MS);
      }
    },
  };
  loaded.set(modulePath, cryptoki);
  return cryptoki;
}

type Functions = ReturnType<typeof bind>;
type Parameters = readonly (string | typeof BYTES | typeof WORD_OUT)[];

function bind(modulePath: string) {
  const library = load(modulePath);
  const bound = <Call extends (...args: never[]) => number>(name: string, parameters: Parameters): Call => {
    try {
      return library.func(name, "ulong", [...parameters]) as unknown as Call;
    } catch (error) {
      throw new KeyringError("module-missing", error);
    }
  };
  type Handle = KeyHandle;
  type Out = [KeyHandle];
  return {
    initialize: bound<(options: object) => number>("C_Initialize", [koffi.pointer(INITIALIZE)]),
    finalize: bound<(reserved: null) => number>("C_Finalize", ["void *"]),
    slots: bound<(present: number, slots: Uint8Array, count: Out) => number>("C_GetSlotList", [
      "uint8_t",
      WORDS,
      WORD_INOUT,
    ]),
    tokenInfo: bound<(slot: Handle, info: Uint8Array) => number>("C_GetTokenInfo", ["ulong", BYTES]),
    open: bound<(slot: Handle, flags: number, application: null, notify: null, session: Out) => number>(
      "C_OpenSession",
      ["ulong", "ulong", "void *", "void *", WORD_OUT],
    ),
    close: bound<(session: Handle) => number>("C_CloseSession", ["ulong"]),
    login: bound<(session: Handle, user: number, pin: Uint8Array, length: number) => number>("C_Login", [
      "ulong",
      "ulong",
      BYTES,
      "ulong",
    ]),
    generate: bound<(session: Handle, how: object, template: Attribute[], count: number, key: Out) => number>(
      "C_GenerateKey",
      ["ulong", HOW, ATTRIBUTES, "ulong", WORD_OUT],
    ),
    findInit: bound<(session: Handle, template: Attribute[], count: number) => number>("C_FindObjectsInit", [
      "ulong",
      ATTRIBUTES,
      "ulong",
    ]),
    find: bound<(session: Handle, handles: Uint8Array, max: number, count: Out) => number>("C_FindObjects", [
      "ulong",
      WORDS,
      "ulong",
      WORD_OUT,
    ]),
    findFinal: bound<(session: Handle) => number>("C_FindObjectsFinal", ["ulong"]),
    attributes: bound<(session: Handle, object: Handle, template: Attribute[], count: number) => number>(
      "C_GetAttributeValue",
      ["ulong", "ulong", koffi.inout(ATTRIBUTES), "ulong"],
    ),
    destroy: bound<(session: Handle, object: Handle) => number>("C_DestroyObject", ["ulong", "ulong"]),
    encryptInit: bound<InitCall>("C_EncryptInit", ["ulong", HOW, "ulong"]),
    encrypt: bound<DataCall>("C_Encrypt", ["ulong", BYTES, "ulong", BYTES, WORD_INOUT]),
    decryptInit: bound<InitCall>("C_DecryptInit", ["ulong", HOW, "ulong"]),
    decrypt: bound<DataCall>("C_Decrypt", ["ulong", BYTES, "ulong", BYTES, WORD_INOUT]),
  };
}

type InitCall = (session: KeyHandle, how: object, key: KeyHandle) => number;
type DataCall = (
  session: KeyHandle,
  data: Uint8Array,
  length: number,
  out: Uint8Array,
  outLength: [KeyHandle],
) => number;

function load(modulePath: string) {
  try {
    return koffi.load(modulePath);
  } catch (error) {
    throw new KeyringError("module-missing", error);
  }
}

function openSession(functions: Functions, slot: KeyHandle, pin: string): TokenSession {
  const out: [KeyHandle] = [0];
  check(functions.open(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, null, null, out));
  const session = out[0];
  const pinBytes = new TextEncoder().encode(pin);
  const rv = functions.login(session, CKU_USER, pinBytes, pinBytes.length);
  pinBytes.fill(0);
  if (rv !== CKR_OK && rv !== CKR_USER_ALREADY_LOGGED_IN) {
    functions.close(session);
    check(rv);
  }
  const crypt = (init: InitCall, call: DataCall, key: KeyHandle, iv: Uint8Array, aad: Uint8Array, data: Uint8Array) => {
    check(init(session, gcm(iv, aad), key));
    const result = new Uint8Array(data.length + TAG_BYTES);
    const length: [KeyHandle] = [result.length];
    const done = call(session, data, data.length, result, length);
    return { rv: done, result: result.subarray(0, Number(length[0])) };
  };
  return {
    keys: () => {
      const filter = [attribute(CKA_CLASS, wordBytes(CKO_SECRET_KEY)), attribute(CKA_KEY_TYPE, wordBytes(CKK_AES))];
      check(functions.findInit(session, filter, filter.length));
      const handles: KeyHandle[] = [];
      const page = new Uint8Array(HANDLES_AT_ONCE * WORD_BYTES);
      try {
        for (;;) {
          const count: [KeyHandle] = [0];
          check(functions.find(session, page, HANDLES_AT_ONCE, count));
          if (Number(count[0]) === 0) break;
          handles.push(...wordsOf(page, Number(count[0])));
        }
      } finally {
        functions.findFinal(session);
      }
      return handles.flatMap((handle) => describe(functions, session, handle));
    },
    generateKey: (keyLabel) => {
      const template = [
        attribute(CKA_CLASS, wordBytes(CKO_SECRET_KEY)),
        attribute(CKA_KEY_TYPE, wordBytes(CKK_AES)),
        attribute(CKA_VALUE_LEN, wordBytes(KEY_LENGTH)),
        attribute(CKA_LABEL, new TextEncoder().encode(keyLabel)),
        ...[CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE, CKA_ENCRYPT, CKA_DECRYPT].map((type) => attribute(type, YES)),
        ...[CKA_EXTRACTABLE, CKA_WRAP, CKA_UNWRAP].map((type) => attribute(type, NO)),
      ];
      const how = { mechanism: CKM_AES_KEY_GEN, parameter: null, parameterLength: 0 };
      check(functions.generate(session, how, template, template.length, [0]));
    },
    destroyKey: (handle) => check(functions.destroy(session, handle)),
    encrypt: (key, iv, aad, plaintext) => {
      const { rv, result } = crypt(functions.encryptInit, functions.encrypt, key, iv, aad, plaintext);
      check(rv);
      return result;
    },
    decrypt: (key, iv, aad, sealed) => {
      const { rv, result } = crypt(functions.decryptInit, functions.decrypt, key, iv, aad, sealed);
      if (CKR_NOT_AUTHENTIC.has(rv)) return null;
      check(rv);
      return result;
    },
    close: () => {
      functions.close(session);
    },
  };
}

function slotOf(functions: Functions, tokenLabel: string): KeyHandle | null {
  const slots = new Uint8Array(SLOTS_MAX * WORD_BYTES);
  const count: [KeyHandle] = [SLOTS_MAX];
  check(functions.slots(1, slots, count));
  for (const slot of wordsOf(slots, Number(count[0]))) {
    const info = new Uint8Array(TOKEN_INFO_BYTES);
    if (functions.tokenInfo(slot, info) !== CKR_OK) continue;
    if (new TextDecoder().decode(info.subarray(0, TOKEN_LABEL_BYTES)).trimEnd() === tokenLabel) return slot;
  }
  return null;
}

/** None when it was destroyed since it was found. */
function describe(functions: Functions, session: KeyHandle, handle: KeyHandle) {
  const label = new Uint8Array(LABEL_BYTES_MAX);
  const [sensitive, staysInside] = [new Uint8Array(1), new Uint8Array(1)];
  const template = [
    attribute(CKA_LABEL, label),
    attribute(CKA_SENSITIVE, sensitive),
    attribute(CKA_NEVER_EXTRACTABLE, staysInside),
  ];
  try {
    check(functions.attributes(session, handle, template, template.length));
  } catch (error) {
    if (error instanceof StaleHandle) return [];
    throw error;
  }
  const text = new TextDecoder().decode(label.subarray(0, Number(template[0]?.valueLength)));
  return [{ handle, label: text, inside: sensitive[0] === 1 && staysInside[0] === 1 }];
}

interface Attribute {
  readonly type: number;
  readonly value: Uint8Array;
  readonly valueLength: KeyHandle;
}

function attribute(type: number, value: Uint8Array): Attribute {
  return { type, value, valueLength: value.length };
}

function gcm(iv: Uint8Array, aad: Uint8Array): object {
  const parameter = {
    iv,
    ivLength: iv.length,
    ivBits: 8 * iv.length,
    aad,
    aadLength: aad.length,
    tagBits: 8 * TAG_BYTES,
  };
  return {
    mechanism: CKM_AES_GCM,
    parameter: koffi.as(parameter, koffi.pointer(GCM)),
    parameterLength: koffi.sizeof(GCM),
  };
}

/** In the order of the machine's bytes. */
function wordBytes(value: number): Uint8Array {
  return new Uint8Array((WORD_BYTES === 8 ? BigUint64Array.of(BigInt(value)) : Uint32Array.of(value)).buffer);
}

function wordsOf(bytes: Uint8Array, count: number): KeyHandle[] {
  return [...(WORD_BYTES === 8 ? new BigUint64Array(bytes.buffer, 0, count) : new Uint32Array(bytes.buffer, 0, count))];
}

function check(rv: number): void {
  if (rv === CKR_OK) return;
  const cause = new Error(`the token answered 0x${Number(rv).toString(16)}`);
  if (CKR_WRONG_HANDLE.has(rv)) throw new StaleHandle(cause);
  throw new KeyringError(CODES.get(rv) ?? "token-fault", cause);
}
