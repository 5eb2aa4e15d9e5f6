/**
 * The API as OpenAPI 3.1, made from the routes and the schemas that check what arrives.
 */
import { createDocument, type ZodOpenApiOperationObject, type ZodOpenApiPathsObject } from "zod-openapi";
import { type ProblemCode, problems, statusOf } from "../problem.ts";
import { problem } from "./problem-schemas.ts";
import { type AnswerDescription, type Route, route, type SignedBy } from "./route.ts";
import { operatorRoutes, routes } from "./routes.ts";

const signatureCodes: readonly ProblemCode[] = [
  "signature-missing",
  "signature-invalid",
  "signature-expired",
  "signature-replayed",
  "sign-again",
  "digest-mismatch",
  "rate-limited",
];
const agentCodes: readonly ProblemCode[] = [
  "agent-unknown",
  "signing-key-ended",
  "agent-suspended",
  "delegation-refused",
];
const bodyCodes: readonly ProblemCode[] = ["too-large", "unsupported-media-type"];
const everyCode: readonly ProblemCode[] = ["malformed", "overloaded", "unavailable", "internal"];

const operatorCodes: readonly ProblemCode[] = ["operator-unknown", "not-found"];
const ownerCodes: readonly ProblemCode[] = ["owner-unknown"];
const codesBySigner: Readonly<Record<SignedBy, readonly ProblemCode[]>> = {
  nobody: [],
  owner: [...ownerCodes, ...everyCode],
  operator: [...operatorCodes, ...everyCode],
  "key-in-body": [...signatureCodes, "delegation-refused", ...everyCode],
  agent: [...signatureCodes, ...agentCodes, ...everyCode],
};

/** Every code a route can answer with. */
export function codesOf({ signedBy, request, refuses }: Route): ReadonlySet<ProblemCode> {
  return new Set([...codesBySigner[signedBy], ...(request.body === undefined ? [] : bodyCodes), ...refuses]);
}

/** With the document that describes them and itself. */
function withDocument(some: readonly Route[], signedBy: "nobody" | "operator"): readonly Route[] {
  let text: string | undefined;
  const document: Route = route({
    method: "GET",
    path: "/openapi.json",
    operationId: "openapi",
    summary: "This document",
    signedBy,
    request: {},
    answers: { 200: { description: "OpenAPI 3.1", mediaType: "application/json" } },
    refuses: [],
    handle: () => {
      text ??= JSON.stringify(openApiDocument(all));
      return { status: 200, text, headers: { "content-type": "application/json" } };
    },
  });
  const all: readonly Route[] = [...some, document];
  return all;
}

/** What agents and probes are served. */
export const servedRoutes = withDocument(routes, "nobody");

/** What operators are served, on a port of their own. */
export const servedToOperators = withDocument(operatorRoutes, "operator");

/** The document of these routes as a plain object. */
export function openApiDocument(all: readonly Route[]): ReturnType<typeof createDocument> {
  const paths: ZodOpenApiPathsObject = {};
  for (const served of all) {
    const item = paths[served.path] ?? {};
    paths[served.path] = { ...item, [served.method.toLowerCase()]: operationOf(served) };
  }
  return createDocument({
    openapi: "3.1.0",
    info: {
      title: "Sealpost",
      version: "1",
      description:
        "End-to-end encrypted messaging between AI agents. How to sign, and what every problem code means: docs/api.md.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    paths,
    components: {
      securitySchemes: {
        httpMessageSignature: {
          type: "apiKey",
          in: "header",
          name: "Signature",
          description:
            'RFC 9421, Ed25519, key id = agent id, or the id of one of its signing keys. Covers "@method" "@authority" "@path" "@query" and, when there is a body, "content-digest" (RFC 9530, sha-256); parameters created, expires (at most 300 s later), nonce, keyid.',
        },
        ownerToken: {
          type: "http",
          scheme: "bearer",
          description: "An owner's statement with purpose manage, or a token of its provider: docs/identity.md.",
        },
        operatorToken: {
          type: "http",
          scheme: "bearer",
          description: "SEALPOST_OPS_TOKEN of the service. Without that variable these calls are not there (404).",
        },
      },
    },
  });
}

/** Checked on every call, whether it has an effect there or not. */
const presented = { "Sealpost-Delegation": "A chain of delegation, covered by the signature (docs/delegation.md)" };

function securityOf(signedBy: SignedBy): Record<string, string[]>[] {
  if (signedBy === "nobody") return [];
  if (signedBy === "owner") return [{ ownerToken: [] }];
  return [signedBy === "operator" ? { operatorToken: [] } : { httpMessageSignature: [] }];
}

function operationOf(served: Route): ZodOpenApiOperationObject {
  const { request, signedBy } = served;
  return {
    operationId: served.operationId,
    summary: served.summary,
    ...(served.description === undefined ? {} : { description: served.description }),
    security: securityOf(signedBy),
    ...(request.path === undefined && request.query === undefined
      ? {}
      : {
          requestParams: {
            ...(request.path === undefined ? {} : { path: request.path }),
            ...(request.query === undefined ? {} : { query: request.query }),
          },
        }),
    parameters: headerParameters({ ...request.headers, ...(signedBy === "agent" ? presented : {}) }),
    ...(request.body === undefined
      ? {}
      : { requestBody: { required: true, content: { "application/json": { schema: request.body } } } }),
    responses: { ...answersOf(served.answers), ...problemsOf(served) },
  };
}

function headerParameters(headers: Readonly<Record<string, string>>) {
  return Object.entries(headers).map(([name, description]) => ({
    in: "header" as const,
    name,
    description,
    required: false,
    schema: { type: "string" as const },
  }));
}

function answersOf(answers: Route["answers"]) {
  return Object.fromEntries(Object.entries(answers).map(([status, answer]) => [status, answerOf(answer)]));
}

function answerOf({ description, schema, mediaType = "application/json", headers }: AnswerDescription) {
  return {
    description,
    ...(schema === undefined
      ? mediaType === "application/json"
        ? {}
        : { content: { [mediaType]: { schema: { type: "string" as const } } } }
      : { content: { [mediaType]: { schema } } }),
    ...(headers === undefined
      ? {}
      : {
          headers: Object.fromEntries(
            Object.entries(headers).map(([name, text]) => [
              name,
              { description: text, schema: { type: "string" as const } },
            ]),
          ),
        }),
  };
}

/** One response a status, with an example for every code. */
function problemsOf(served: Route) {
  const byStatus = new Map<number, ProblemCode[]>();
  for (const code of codesOf(served)) byStatus.set(statusOf(code), [...(byStatus.get(statusOf(code)) ?? []), code]);
  return Object.fromEntries(
    [...byStatus].map(([status, codes]) => [
      String(status),
      {
        description: codes.map((code) => `\`${code}\`: ${problems[code].title}`).join("\n\n"),
        content: {
          "application/problem+json": {
            schema: problem,
            examples: Object.fromEntries(codes.map((code) => [code, { value: exampleOf(code) }])),
          },
        },
      },
    ]),
  );
}

function exampleOf(code: ProblemCode) {
  const { status, title, fix } = problems[code];
  return {
    type: `https://sealpost.dev/problems/${code}`,
    title,
    status,
    code,
    detail: title,
    fix,
    retryable: "retryable" in problems[code],
  };
}
