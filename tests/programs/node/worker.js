// SPDX-License-Identifier: Apache-2.0
'use strict';
const { parentPort, workerData } = require('worker_threads');

const sums = new BigUint64Array(workerData.shared);
let own = BigInt(workerData.index); // Kept in the worker's own heap as well as in shared memory.

parentPort.on('message', (n) => {
  if (n === 'ready?') { parentPort.postMessage('ready'); return; }
  for (let i = 0; i < 1000; i += 1) own = BigInt.asUintN(64, own * 31n + BigInt(n + i));
  Atomics.store(sums, workerData.index, own);
  Atomics.add(sums, 3, 1n);
  parentPort.postMessage(String(own));
});
