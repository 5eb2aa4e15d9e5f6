/**
 * The signing keys of a store's agent: further keys that sign its calls (docs/identity.md). They are certified with the store's key, so this needs the store, and no
 * agent that has it open; the keys themselves then work wherever they are.
 */
import { encodeBase64Url } from "../protocol/base64url.ts";
import { createIdentity } from "../protocol/identity.ts";
import { JsonReader } from "../protocol/json-reader.ts";
import { nodePrimitives, nodeRandom } from "../protocol/primitives/node.ts";
import type { KeyPair } from "../protocol/primitives/primitives.ts";
import { signSigningKey } from "../protocol/signing-key.ts";
import { formatTimestamp } from "../protocol/timestamp.ts";
import { type AgentOptions, serviceUrl } from "./agent.ts";
import { memberOf, notUnderstood, understood } from "./answers.ts";
import { StoreError } from "./errors.ts";
import { SignedHttp } from "./signed-http.ts";
import { Store } from "./store/store.ts";

export interface SigningKeyEntry {
  /** What stands in `keyid`. */
  readonly keyId: string;
  /** Milliseconds. */
  readonly notAfter: number;
  readonly createdAt: number;
}

export interface SigningKeys {
  /** Makes a key, certifies and adds it. The seed is nowhere else: `save` has it before the service has the key. */
  add(
    notAfter: number,
    save: (key: { readonly keyId: string; readonly pair: KeyPair }) => void,
  ): Promise<SigningKeyEntry>;
  list(): Promise<readonly SigningKeyEntry[]>;
  /** Answers whether it was in force. */
  remove(keyId: string): Promise<boolean>;
}

const PATH = "/messaging/signing-keys";

/** Does something with the signing keys of the store's agent. Throws a `StoreError`, and what the service throws. */
export async function withSigningKeys<T>(
  { url, storePath: path, key, signal }: Pick<AgentOptions, "url" | "storePath" | "key" | "signal">,
  work: (keys: SigningKeys) => Promise<T>,
): Promise<T> {
  const store = Store.open({ path, ...(key === undefined ? {} : { key }) });
  try {
    const { accounts } = store;
    const own = accounts.identity();
    const agentId = accounts.custody() === "server" ? accounts.heldId() : (own?.agentId ?? null);
    if (own === null || agentId === null) {
      throw new StoreError("store-unregistered", "the store has no agent that was registered: register one first");
    }
    const base = serviceUrl(url ?? accounts.home() ?? "");
    const signer = { agentId, signing: own.signing };
    const http = new SignedHttp(base, signer, signal ?? new AbortController().signal);
    return await work(keysOver(http, signer));
  } finally {
    store.close();
  }
}

function keysOver(
  http: SignedHttp,
  { agentId, signing }: { readonly agentId: string; readonly signing: KeyPair },
): SigningKeys {
  return {
    add: async (notAfter, save) => {
      const { agentId: keyId, signing: pair } = createIdentity(nodePrimitives, nodeRandom);
      const { publicKey } = pair;
      const facts = { agentId, publicKey, notAfter };
      save({ keyId, pair });
      const json = {
        public_key: encodeBase64Url(publicKey),
        not_after: formatTimestamp(notAfter),
        certificate: encodeBase64Url(signSigningKey(nodePrimitives, "certificate", signing, facts)),
        proof: encodeBase64Url(signSigningKey(nodePrimitives, "proof", pair, facts)),
      };
      return entryOf(await http.call({ method: "PUT", path: `${PATH}/${keyId}`, json }));
    },
    list: async () => {
      const keys = memberOf(await http.call({ method: "GET", path: PATH }), "keys");
      if (!Array.isArray(keys)) throw notUnderstood();
      return keys.map(entryOf);
    },
    remove: async (keyId) => {
      const removed = memberOf(await http.call({ method: "DELETE", path: `${PATH}/${keyId}` }), "removed");
      if (typeof removed !== "boolean") throw notUnderstood();
      return removed;
    },
  };
}

function entryOf(answer: unknown): SigningKeyEntry {
  return understood(() => {
    const object = new JsonReader(answer);
    return {
      keyId: object.string("key_id"),
      notAfter: object.timestamp("not_after"),
      createdAt: object.timestamp("created_at"),
    };
  });
}
