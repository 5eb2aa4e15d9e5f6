/** `docs/security-tests.md`, made from the matrix. */
import { cellsOf, RISKS, type Risk } from "./matrix.ts";
import { type Target, targets } from "./targets.ts";

const INTRO = `# The OWASP API Security Top 10 as tests

Every operation that is served is attacked for each of the ten risks of 2023, or says why one does not apply to it. The table is \`tests/owasp/\`; this page is
made from it (\`npx vitest run --project unit api/http/owasp.test.ts -u\`) and compared with it by a test. An operation that is missing from the table, an empty cell,
an attack that is made nowhere, and an attack that looked at nothing fail.

Each attack begins with a call of the operation that is taken, and changes one thing of it: so what is refused is refused for the attack. After a refusal everything
that is stored and appended is what it was, and the answer holds nothing of other agents.

| what | where |
| --- | --- |
| the matrix, every attack over the HTTP app with its ports in memory | \`api/http/owasp*.test.ts\` |
| the stream: its upgrade and its frames | \`api/stream/owasp.test.ts\` |
| one agent against everything of another's, over the real stores, in both custodies | \`tests/owasp.e2e.test.ts\` |
`;

type Kind = readonly [title: string, (target: Target) => boolean];

export function renderMatrix(): string {
  const risks = Object.keys(RISKS) as Risk[];
  return [INTRO, overview(risks), ...risks.map(section)].join("\n");
}

/** How many attacks each operation withstands. */
function overview(risks: readonly Risk[]): string {
  const rows = targets.map((target) => {
    const cells = cellsOf(target);
    const counts = risks.map((risk) => (typeof cells[risk] === "string" ? "–" : String(cells[risk].length)));
    return row([`\`${target.name}\``, ...counts]);
  });
  return [
    "## How many attacks",
    "–: it does not apply; the reason stands below.\n",
    row(["operation", ...risks]),
    row(["---", ...risks.map(() => "---:")]),
    ...rows,
    "",
  ].join("\n");
}

function section(risk: Risk): string {
  const attacked = new Map<string, Target[]>();
  const spared = new Map<string, Target[]>();
  for (const target of targets) {
    const cell = cellsOf(target)[risk];
    if (typeof cell === "string") add(spared, cell, target);
    else for (const name of cell) add(attacked, name, target);
  }
  return [
    `## ${risk}: ${RISKS[risk]}`,
    row(["attack", "operations"]),
    row(["---", "---"]),
    ...[...attacked].map(([name, some]) => row([name, named(some)])),
    "",
    ...(spared.size === 0
      ? []
      : [
          row(["it does not apply, because", "operations"]),
          row(["---", "---"]),
          ...[...spared].map(([why, some]) => row([why, named(some)])),
          "",
        ]),
  ].join("\n");
}

const isSigned = ({ route }: Target) => route.signedBy === "agent" || route.signedBy === "key-in-body";
const hasBody = ({ route }: Target) => route.request.body !== undefined;

const kinds: readonly Kind[] = [
  ["every call", () => true],
  ["every call but the open ones", ({ route }) => route.signedBy !== "nobody"],
  ["every signed call, and those of owners", (target) => isSigned(target) || target.route.signedBy === "owner"],
  ["every signed call", isSigned],
  ["every call of registered agents", ({ route }) => route.signedBy === "agent"],
  ["every call of owners", ({ route }) => route.signedBy === "owner"],
  ["every call of operators", ({ route }) => route.signedBy === "operator"],
  ["every open call", ({ route }) => route.signedBy === "nobody"],
  ["every call with a body", hasBody],
  ["every call without a body", (target) => !hasBody(target)],
  ["every signed call with a body", (target) => isSigned(target) && hasBody(target)],
];

/** By what they have in common, or one by one. */
function named(some: readonly Target[]): string {
  const kind = kinds.find(([, holds]) => {
    const all = targets.filter(holds);
    return all.length === some.length && all.every((target) => some.includes(target));
  });
  if (kind !== undefined) return kind[0];
  const others = targets.filter((target) => !some.includes(target));
  if (others.length < 4) return `every call but ${others.map(({ name }) => `\`${name}\``).join(", ")}`;
  return some.map(({ name }) => `\`${name}\``).join(", ");
}

function add(map: Map<string, Target[]>, name: string, target: Target): void {
  map.set(name, [...(map.get(name) ?? []), target]);
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}
