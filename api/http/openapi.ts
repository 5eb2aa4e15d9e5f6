/**
 * The API as OpenAPI 3.1, made from the routes and the schemas that check what arrives.
 */
import { createDocument, type ZodOpenApiOperationObject, type ZodOpenApiPathsObject } from "zod-openapi";
import { type ProblemCode, problems, statusOf } from "../problem.ts";
import { type AnswerDescription, type Route, route, type SignedBy } from "./route.ts";
import { routes } from "./routes.ts";
import { problem } from "./schemas.ts";

const signatureCodes: readonly ProblemCode[] = [
  "signature-missing",
  "signature-invalid",
  "signature-expired",
  "signature-replayed",
  "sign-again",
  "digest-mismatch",
];
const agentCodes: readonly ProblemCode[] = ["agent-unknown", "agent-suspended"];
const bodyCodes: readonly ProblemCode[] = ["too-large", "unsupported-media-type"];
const everyCode: readonly ProblemCode[] = ["malformed", "overloaded", "unavailable", "internal"];

const operatorCodes: readonly ProblemCode[] = ["operator-unknown", "not-found"];
const codesBySigner: Readonly<Record<SignedBy, readonly ProblemCode[]>> = {
  nobody: [],
  operator: [...operatorCodes, ...everyCode],
  "key-in-body": [...signatureCodes, ...everyCode],
  agent: [...signatureCodes, ...agentCodes, ...everyCode],
};

/** Every code a route can answer with. */
export function codesOf({ signedBy, request, refuses }: Route): ReadonlySet<ProblemCode> {
  return new Set([...codesBySigner[signedBy], ...(request.body === undefined ? [] : bodyCodes), ...refuses]);
}

const document = route({
  method: "GET",
  path: "/openapi.json",
  operationId: "openapi",
  summary: "This document",
  signedBy: "nobody",
  request: {},
  answers: { 200: { description: "OpenAPI 3.1", mediaType: "application/json" } },
  refuses: [],
  handle: () => {
    text ??= JSON.stringify(openApiDocument());
    return { status: 200, text, headers: { "content-type": "application/json" } };
  },
});

let text: string | undefined;

export const servedRoutes: readonly Route[] = [...routes, document];

/** The document as a plain object. */
export function openApiDocument(): ReturnType<typeof createDocument> {
  const paths: ZodOpenApiPathsObject = {};
  for (const served of servedRoutes) {
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
            'RFC 9421, Ed25519, key id = agent id. Covers "@method" "@authority" "@path" "@query" and, when there is a body, "content-digest" (RFC 9530, sha-256); parameters created, expires (at most 300 s later), nonce, keyid.',
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

function securityOf(signedBy: SignedBy): Record<string, string[]>[] {
  if (signedBy === "nobody") return [];
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
    ...(request.headers === undefined ? {} : { parameters: headerParameters(request.headers) }),
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
