/** Further keys that sign the agent's calls (docs/identity.md). */
import { createPrivateKey } from "node:crypto";
import { existsSync } from "node:fs";
import { encodeBase64Url } from "../../protocol/base64url.ts";
import type { KeyPair } from "../../protocol/primitives/primitives.ts";
import { formatTimestamp } from "../../protocol/timestamp.ts";
import { type SigningKeyEntry, withSigningKeys } from "../../sdk/signing-keys.ts";
import { readAgentConfig } from "../config.ts";
import { writeKeyFile } from "./key-file.ts";
import { type Command, NotSo, printable, readWords, WrongWords, writeFacts, writeOut } from "./terminal.ts";

const DAY_MS = 86_400_000;
const DAYS_MAX = 366;

export const signingKey: Command = {
  summary: "further keys that sign the agent's calls",
  usage: `Usage: sealpost signing-key add FILE [--days N] [--store FILE] [--url URL] [--json]
       sealpost signing-key list
       sealpost signing-key remove KEY_ID

add makes a key, certifies it with the store's, tells the service and writes the private half to FILE, a JWK:
for a worker that signs the agent's calls with it (keyid = its key id) and needs no other key of the agent.

  --days N   how long it is in force: 90, at most ${DAYS_MAX}

A removed key is refused within 5 seconds, and does not come back.`,
  run: async (args, signal) => {
    const { values, positionals } = readWords(args, { days: { type: "string", default: "90" } });
    const [action = "", word, ...rest] = positionals;
    const isList = action === "list";
    if (!["add", "list", "remove"].includes(action)) throw new WrongWords("signing-key takes add, list or remove");
    if ((word === undefined) !== isList || rest.length > 0) {
      throw new WrongWords(
        `signing-key ${action} takes ${isList ? "no words" : action === "add" ? "a file" : "a key id"}`,
      );
    }
    const days = Number(values.days);
    if (!(days > 0 && days <= DAYS_MAX)) throw new WrongWords(`--days is up to ${DAYS_MAX}`);
    const config = readAgentConfig();
    const storePath = values.store ?? config.storePath;
    if (!existsSync(storePath)) throw new NotSo(`there is no agent in ${storePath}: make one with sealpost register`);
    const url = values.url ?? config.url;
    const place = {
      ...{ storePath, signal },
      ...(url === undefined ? {} : { url }),
      ...(config.storeKey === undefined ? {} : { key: config.storeKey }),
    };
    return withSigningKeys(place, async (keys) => {
      if (isList) return writeKeys(values.json, await keys.list());
      if (word === undefined) throw new Error("the words were checked");
      if (action === "remove") {
        const removed = await keys.remove(word);
        return writeFacts(values.json, { key_id: word, removed });
      }
      const notAfter = Date.now() + Math.round(days * DAY_MS);
      const key = await keys.add(notAfter, ({ pair }) => void writeKeyFile(word, keyObjectOf(pair)));
      return writeFacts(values.json, { key_id: key.keyId, not_after: formatTimestamp(key.notAfter), file: word });
    });
  },
};

function keyObjectOf({ publicKey, privateKey }: KeyPair) {
  const jwk = { kty: "OKP", crv: "Ed25519", x: encodeBase64Url(publicKey), d: encodeBase64Url(privateKey) };
  return createPrivateKey({ key: jwk, format: "jwk" });
}

function writeKeys(isJson: boolean, keys: readonly SigningKeyEntry[]): Promise<number> {
  const rows = keys.map(({ keyId, notAfter, createdAt }) => ({
    key_id: printable(keyId),
    not_after: formatTimestamp(notAfter),
    created_at: formatTimestamp(createdAt),
  }));
  if (isJson) return writeOut(`${JSON.stringify({ keys: rows })}\n`);
  if (rows.length === 0) return writeOut("there are no signing keys\n");
  return writeOut(rows.map((row) => `${row.key_id} until ${row.not_after}, since ${row.created_at}\n`).join(""));
}
