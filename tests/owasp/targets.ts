/** Everything that is served, from the code, each with a call that is taken. */
import { servedRoutes, servedToOperators } from "../../api/http/openapi.ts";
import type { Route } from "../../api/http/route.ts";
import { agentExamples, type Example } from "./examples-agents.ts";
import { operatorExamples, ownerExamples } from "./examples-operators.ts";
import type { Ask, Port, World } from "./world.ts";

export interface Target {
  /** The operation's id; of the operators' document with its port. */
  readonly name: string;
  readonly route: Route;
  readonly port: Port;
}

export const examples: Readonly<Record<string, Example>> = { ...agentExamples, ...ownerExamples, ...operatorExamples };

export const targets: readonly Target[] = [
  ...servedRoutes.map((route) => ({ name: route.operationId, route, port: "agents" as const })),
  ...servedToOperators.map((route) => ({
    name: route.operationId === "openapi" ? "openapi (operators)" : route.operationId,
    ...{ route, port: "operators" as const },
  })),
];

/** The call that is taken. */
export function exampleOf({ name }: Target, world: World): Ask {
  const example = examples[name];
  if (example === undefined) throw new Error(`tests/owasp has no example of ${name}: add one to its examples`);
  return example(world);
}
