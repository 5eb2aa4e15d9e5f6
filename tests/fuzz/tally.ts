/** What a part of a run put in, and what came of it. */

/** Kept of each part: the first ones say what is wrong, and a defect may meet every input. */
const FINDINGS_MAX = 20;

export interface PartReport {
  readonly part: string;
  readonly inputs: number;
  /** Inputs of each operation, kind or topic. */
  readonly of: Readonly<Record<string, number>>;
  /** How often each answer or end came. */
  readonly answers: Readonly<Record<string, number>>;
  /** Of each operation, where the part has operations: its answers by their class, of which 401 is one of its own. */
  readonly classes: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly findings: readonly string[];
}

export class Tally {
  readonly part: string;
  readonly #of = new Map<string, number>();
  readonly #answers = new Map<string, number>();
  readonly #classes = new Map<string, Map<string, number>>();
  readonly #findings: string[] = [];

  /** `expected`: each of them must have had an input, or that is a finding. */
  constructor(part: string, expected: readonly string[]) {
    this.part = part;
    for (const name of expected) this.#of.set(name, 0);
  }

  get inputs(): number {
    return Array.from(this.#of.values()).reduce((sum, count) => sum + count, 0);
  }

  /** Has something that was expected had no input yet? */
  get isMissingSome(): boolean {
    return Array.from(this.#of.values()).includes(0);
  }

  get findings(): readonly string[] {
    return this.#findings;
  }

  put(name: string, count = 1): void {
    this.#of.set(name, (this.#of.get(name) ?? 0) + count);
  }

  answered(how: string, count = 1): void {
    this.#answers.set(how, (this.#answers.get(how) ?? 0) + count);
  }

  /** What an operation was answered with. */
  answeredWith(name: string, status: number): void {
    this.#inClass(name, status === 401 ? "401" : `${Math.floor(status / 100)}xx`, 1);
  }

  #inClass(name: string, of: string, count: number): void {
    const classes = this.#classes.get(name) ?? new Map<string, number>();
    this.#classes.set(name, classes.set(of, (classes.get(of) ?? 0) + count));
  }

  finding(what: string): void {
    if (this.#findings.length < FINDINGS_MAX) this.#findings.push(what);
  }

  /** What the other one of the same part has, too. */
  add(other: Tally): void {
    for (const [name, count] of other.#of) this.put(name, count);
    for (const [how, count] of other.#answers) this.answered(how, count);
    for (const [name, classes] of other.#classes) for (const [of, count] of classes) this.#inClass(name, of, count);
    for (const finding of other.#findings) this.finding(finding);
  }

  /** Operations at which nothing got past the proof. */
  #unproven(): readonly string[] {
    return Array.from(this.#classes).flatMap(([name, classes]) =>
      classes.has("401") && classes.size === 1 ? [`${name} had no input with a proof that holds`] : [],
    );
  }

  report(): PartReport {
    const missed = Array.from(this.#of).flatMap(([name, count]) => (count === 0 ? [`${name} had no input`] : []));
    return {
      part: this.part,
      inputs: this.inputs,
      of: Object.fromEntries(this.#of),
      answers: Object.fromEntries(this.#answers),
      classes: Object.fromEntries(Array.from(this.#classes, ([name, of]) => [name, Object.fromEntries(of)])),
      findings: [...this.#findings, ...missed, ...this.#unproven()],
    };
  }
}

/** One tally for each part: what had no input in one round may have had some in another. */
export function merged(tallies: readonly Tally[]): readonly Tally[] {
  const sums = new Map<string, Tally>();
  for (const tally of new Set(tallies)) {
    const sum = sums.get(tally.part) ?? new Tally(tally.part, []);
    sum.add(tally);
    sums.set(tally.part, sum);
  }
  return [...sums.values()];
}
