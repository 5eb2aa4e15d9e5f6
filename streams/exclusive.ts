/**
 * One thing at a time, in the order asked for.
 */
export interface Exclusive {
  run<Result>(work: () => Promise<Result>): Promise<Result>;
}

export function createExclusive(): Exclusive {
  let last: Promise<unknown> = Promise.resolve();
  return {
    run(work) {
      const result = last.then(work);
      last = result.catch(() => undefined);
      return result;
    },
  };
}
