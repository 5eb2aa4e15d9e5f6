/** API2: who calls, for calls that an agent signs, for those with the operators' token, and for none of both. */
import { createHmac } from "node:crypto";
import { expect } from "vitest";
import { addAgent } from "../in-memory-service.ts";
import { contentDigestOf, newIdentity, type SignedCall, type SigningOptions, sendSigned, signed } from "../signing.ts";
import type { Attack, Stage } from "./attack.ts";
import { type Ask, type Signer, textOf, told } from "./world.ts";

const nowSeconds = () => Math.floor(Date.now() / 1000);

/** An example that an agent signs. */
function signedExample(stage: Stage): Ask & { readonly as: Signer } {
  const example = stage.example();
  if (example.as === null || !("identity" in example.as)) throw new Error("this attack is for signed calls");
  return { ...example, as: example.as };
}

async function signedCall(stage: Stage, options: SigningOptions = {}): Promise<SignedCall> {
  const { method, path, as, headers = {}, body } = signedExample(stage);
  const call = { method, url: stage.world.urlOf(stage.target.port, path), headers };
  return signed(as.identity, body === undefined ? call : { ...call, body }, { keyid: as.keyid, ...options });
}

/** What was signed, changed on the way. */
async function tampered(
  stage: Stage,
  codes: readonly string[],
  change: (call: SignedCall) => SignedCall,
  what: string,
) {
  const call = change(await signedCall(stage));
  await stage.world.expectRefused(async () => told(await sendSigned(call)), codes, what);
}

const covered = (body: unknown) => [
  ...["@method", "@authority", "@path", "@query"],
  ...(body === undefined ? [] : ["content-digest"]),
];

export const signatureAttacks = {
  "no signature": async (stage) => {
    await stage.refused(["signature-missing"], { ...stage.example(), as: null });
    await stage.refused(["signature-missing"], { ...stage.example(), as: { bearer: "a".repeat(43) } });
  },
  "a substituted key: the caller's id, somebody else's key": async (stage) => {
    const { as, ...ask } = signedExample(stage);
    for (const identity of [newIdentity(), stage.world.victim.identity]) {
      await stage.refused(["signature-invalid"], { ...ask, as: { identity, keyid: as.keyid } });
    }
  },
  "the caller's key under another agent's id": async (stage) => {
    const { as, ...ask } = signedExample(stage);
    const { keyid } = stage.world.victim;
    await stage.refused(["signature-invalid"], { ...ask, as: { identity: as.identity, keyid } });
  },
  "a key that nobody registered": async (stage) => {
    const identity = newIdentity();
    const codes = stage.target.route.signedBy === "agent" ? ["agent-unknown"] : ["signature-invalid"];
    await stage.refused(codes, { ...signedExample(stage), as: { identity, keyid: identity.agentId } });
  },
  "an algorithm that is not Ed25519, also with the public key as the secret of an HMAC": async (stage) => {
    const { as } = signedExample(stage);
    const hmac = (data: Uint8Array) => createHmac("sha256", as.identity.signing.publicKey).update(data).digest();
    const algs = ["hmac-sha256", "rsa-pss-sha512", "rsa-v1_5-sha256", "ecdsa-p256-sha256", "none", "Ed25519"];
    for (const alg of algs) {
      await stage.refused(["signature-invalid"], signedExample(stage), { alg, sign: hmac }, alg);
      await stage.refused(["signature-invalid"], signedExample(stage), { alg }, alg);
    }
    const parameters = ["created", "expires", "nonce", "keyid"];
    await stage.refused(["signature-invalid"], signedExample(stage), { parameters, sign: hmac }, "no alg");
  },
  "a signature of zeros, of the wrong length, or with another curve point": async (stage) => {
    for (const bytes of [
      new Uint8Array(64),
      new Uint8Array(63),
      new Uint8Array(0),
      Uint8Array.of(1, ...Array(63).fill(0)),
    ]) {
      await stage.refused(["signature-invalid"], signedExample(stage), { sign: () => bytes }, `${bytes.length} bytes`);
    }
  },
  "a signature that has expired": async (stage) => {
    const times = { created: nowSeconds() - 120, expires: nowSeconds() - 60 };
    await stage.refused(["signature-expired"], signedExample(stage), times);
  },
  "a signature from the future": async (stage) => {
    const times = { created: nowSeconds() + 60, expires: nowSeconds() + 120 };
    await stage.refused(["signature-invalid"], signedExample(stage), times);
  },
  "a signature that lives too long, or ends before it begins": async (stage) => {
    for (const seconds of [301, 86_400, 0, -1]) {
      const times = { created: nowSeconds(), expires: nowSeconds() + seconds };
      await stage.refused(["signature-invalid"], signedExample(stage), times, String(seconds));
    }
  },
  "the same request again": async (stage) => {
    const call = await signedCall(stage);
    const first = await told(await sendSigned(call));
    expect(first.status, first.text).toBeLessThan(300);
    await stage.world.expectRefused(async () => told(await sendSigned(call)), ["signature-replayed"]);
  },
  "a nonce used again for another request": async (stage) => {
    const nonce = "one-and-the-same";
    const ask = signedExample(stage);
    expect((await stage.ask(ask, { nonce })).status).toBeLessThan(300);
    await stage.refused(["signature-replayed"], { ...signedExample(stage), as: ask.as, ...sameBody(ask) }, { nonce });
  },
  "a component that the signature leaves out": async (stage) => {
    const all = covered(signedExample(stage).body);
    for (const left of all) {
      const components = all.filter((name) => name !== left);
      const { json } = await stage.refused(["signature-invalid"], signedExample(stage), { components }, left);
      expect(json.field).toBe(left);
    }
    await stage.refused(["signature-invalid"], signedExample(stage), { components: [] }, "nothing");
  },
  "a parameter that the signature leaves out": async (stage) => {
    for (const left of ["created", "expires", "nonce", "keyid"]) {
      const parameters = ["created", "expires", "nonce", "keyid", "alg"].filter((name) => name !== left);
      await stage.refused(["signature-invalid"], signedExample(stage), { parameters }, left);
    }
  },
  "a request that was changed on the way: method, path, query": async (stage) => {
    const { route } = stage.target;
    const added = (call: SignedCall) => ({ ...call, url: `${call.url}${call.url.includes("?") ? "&" : "?"}limit=1` });
    await tampered(stage, ["signature-invalid"], added, "query");
    const methods = { GET: "POST", POST: "GET", PUT: "DELETE", DELETE: "PUT" } as const;
    const method = methods[route.method];
    const other = ({ body: _, ...call }: SignedCall) => ({ ...call, method, body: undefined });
    const codes = ["signature-invalid", "digest-mismatch", "method-not-allowed", "unsupported-media-type"];
    await tampered(stage, [...codes, "malformed", "upgrade-required"], other, "method");
    const elsewhere = (call: SignedCall) => ({ ...call, url: call.url.replace("/messaging/", "/%6dessaging/") });
    await tampered(stage, ["signature-invalid", "not-found", "malformed"], elsewhere, "path");
  },
  "a request that was signed for another service": async (stage) => {
    const elsewhere = async () => {
      const { as, method, path, body } = signedExample(stage);
      const call = { method, url: `https://elsewhere.example${path}`, ...(body === undefined ? {} : { body }) };
      const request = await signed(as.identity, call, { keyid: as.keyid });
      return told(await sendSigned({ ...request, url: stage.world.urlOf(stage.target.port, path) }));
    };
    await stage.world.expectRefused(elsewhere, ["signature-invalid"]);
  },
  "two signatures, or labels that do not belong together": async (stage) => {
    const doubled = ({ headers, ...call }: SignedCall) => {
      const [input, signature] = [headers["Signature-Input"] ?? "", headers["Signature"] ?? ""];
      const twice = (text: string) => `${text}, other${text.slice(text.indexOf("="))}`;
      return { ...call, headers: { ...headers, "Signature-Input": twice(input), Signature: twice(signature) } };
    };
    await tampered(stage, ["signature-invalid"], doubled, "two");
    const relabelled = ({ headers, ...call }: SignedCall) => {
      const signature = headers["Signature"] ?? "";
      return { ...call, headers: { ...headers, Signature: `other${signature.slice(signature.indexOf("="))}` } };
    };
    await tampered(stage, ["signature-invalid"], relabelled, "labels");
  },
} satisfies Record<string, Attack>;

/** Where the signature covers a body. */
export const digestAttacks = {
  "a body that is not the one that was signed": async (stage) => {
    // The same JSON in other bytes: it would be taken.
    const other = Buffer.from(`${textOf(signedExample(stage).body)} `);
    await tampered(
      stage,
      ["digest-mismatch"],
      (call) => ({ ...call, body: Buffer.concat([call.body ?? other, Buffer.from(" ")]) }),
      "body",
    );
    const both = (call: SignedCall) => ({
      ...{ ...call, body: other },
      headers: { ...call.headers, "content-digest": contentDigestOf(other) },
    });
    await tampered(stage, ["signature-invalid"], both, "body and digest");
    await tampered(stage, ["digest-mismatch", "malformed"], (call) => ({ ...call, body: Buffer.alloc(0) }), "no body");
    await stage.refused(["digest-mismatch"], signedExample(stage), { contentDigest: "md5=:AAAA:" }, "another digest");
  },
} satisfies Record<string, Attack>;

/** Of callers that are registered. */
export const standingAttacks = {
  "a suspended agent, and a revoked one": async (stage) => {
    const ask = signedExample(stage);
    const { agents } = stage.world.service.ports;
    const agent = agents.get(ask.as.keyid);
    if (agent === undefined) throw new Error("the caller is registered");
    for (const status of ["suspended", "revoked"] as const) {
      agents.set(agent.agentId, { ...agent, status });
      await stage.refused(["agent-suspended"], ask, {}, status);
    }
    const stranger = newIdentity();
    addAgent(stage.world.service.ports, stranger, "suspended");
    await stage.refused(["agent-suspended"], { ...ask, as: { identity: stranger, keyid: stranger.agentId } });
  },
} satisfies Record<string, Attack>;

export const tokenAttacks = {
  "no token, another, a part of it, or one under another scheme": async (stage) => {
    const { as: _, ...ask } = stage.example();
    const token = stage.world.service.ports.opsToken ?? "";
    const values = [
      ...["", "Bearer", "Bearer ", `Bearer ${token.slice(0, -1)}`, `Bearer ${token}x`, `Bearer ${token} x`],
      ...[`Bearer ${"x".repeat(token.length)}`, `Basic ${btoa(`ops:${token}`)}`, token, `Token ${token}`],
      ...[`Bearer ${token.toUpperCase()}`, `Bearer ${btoa(token)}`],
    ];
    for (const authorization of values) {
      await stage.refused(["operator-unknown"], { ...ask, as: null, headers: { authorization } }, {}, authorization);
    }
    await stage.refused(["operator-unknown"], { ...ask, as: null }, {}, "none");
  },
  "the token in the query": async (stage) => {
    const { path, ...ask } = stage.example();
    const query = `${path.includes("?") ? "&" : "?"}access_token=${stage.world.service.ports.opsToken}`;
    await stage.refused(["operator-unknown"], { ...ask, path: path + query, as: null });
  },
} satisfies Record<string, Attack>;

function sameBody({ body }: Ask): { body?: unknown } {
  return body === undefined ? {} : { body };
}
