/**
 * One call of an operator's command to the service. The token goes to the one place that was named, and nowhere else.
 */
import type { OperatorConfig } from "./config.ts";

export interface OperatorText {
  readonly status: number;
  readonly text: string;
}

export interface OperatorAnswer {
  readonly status: number;
  readonly json: Readonly<Record<string, unknown>>;
}

export interface OperatorCall {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly body?: unknown;
  /** Longer than the service takes when it is there. */
  readonly msMax: number;
  readonly signal?: AbortSignal;
}

/** Null when nobody answered, or with something else than the service's JSON. */
export async function callAsOperator(config: OperatorConfig, call: OperatorCall): Promise<OperatorAnswer | null> {
  const answer = await askAsOperator(config, call);
  if (answer === null) return null;
  try {
    const json: unknown = JSON.parse(answer.text);
    if (typeof json !== "object" || json === null) return null;
    return { status: answer.status, json: json as OperatorAnswer["json"] };
  } catch {
    return null;
  }
}

/** Null when nobody answered. */
export async function askAsOperator(
  { url, opsToken }: OperatorConfig,
  call: OperatorCall,
): Promise<OperatorText | null> {
  const { method, path, body, msMax, signal } = call;
  const late = AbortSignal.timeout(msMax);
  try {
    const response = await fetch(url + path, {
      method,
      headers: {
        authorization: `Bearer ${opsToken}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      redirect: "error",
      signal: signal === undefined ? late : AbortSignal.any([late, signal]),
    });
    return { status: response.status, text: await response.text() };
  } catch {
    return null;
  }
}
