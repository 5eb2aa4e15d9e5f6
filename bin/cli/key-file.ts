/** Private keys in files: one Ed25519 JWK each, for its owner's eyes only. */
import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { decodeBase64Url } from "../../protocol/base64url.ts";
import { agentIdOf } from "../../protocol/identity.ts";
import { nodePrimitives } from "../../protocol/primitives/node.ts";
import { NotSo } from "./terminal.ts";

export interface KeyFile {
  /** RFC 7638 thumbprint. */
  readonly kid: string;
  readonly key: KeyObject;
  readonly publicJwk: Readonly<Record<string, string>>;
}

/** Writes it where nothing is yet. Throws `NotSo`. */
export function writeKeyFile(path: string, key: KeyObject): KeyFile {
  const { x, d } = key.export({ format: "jwk" });
  const file = keyFileOf(key);
  const jwk = { kty: "OKP", crv: "Ed25519", x, d, kid: file.kid };
  try {
    writeFileSync(path, `${JSON.stringify(jwk)}\n`, { flag: "wx", mode: 0o600, flush: true });
  } catch (error) {
    if ((error as { code?: unknown }).code !== "EEXIST") throw error;
    throw new NotSo(`${path} is there already: keys are not overwritten; name another file`);
  }
  return file;
}

/** Throws `NotSo`, and what reading throws. */
export function readKeyFile(path: string): KeyFile {
  const content = readFileSync(path, "utf8");
  try {
    const key = createPrivateKey({ key: JSON.parse(content), format: "jwk" });
    if (key.asymmetricKeyType !== "ed25519") throw new Error("another kind of key");
    return keyFileOf(key);
  } catch {
    throw new NotSo(`${path} holds no private Ed25519 JWK: sealpost owner keygen makes one`);
  }
}

function keyFileOf(key: KeyObject): KeyFile {
  const { x = "" } = createPublicKey(key).export({ format: "jwk" });
  const kid = agentIdOf(nodePrimitives, decodeBase64Url(x) ?? new Uint8Array());
  return { kid, key, publicJwk: { kty: "OKP", crv: "Ed25519", x, kid, use: "sig", alg: "EdDSA" } };
}

/** A token from a file, or from stdin for `-`. */
export async function readToken(path: string): Promise<string> {
  return (path === "-" ? await text(process.stdin) : readFileSync(path, "utf8")).trim();
}
