// SPDX-License-Identifier: Apache-2.0
//
// An HTTP server on libuv: workers that share memory, timers, a file watch, objects that V8 has optimised and moved.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const path = require('path');
const { Worker } = require('worker_threads');

const [port, ready, watched] = process.argv.slice(2);
const WORKERS = 3;
// [0..2] sums of the workers, [3] jobs done.
const shared = new SharedArrayBuffer(4 * 8);
const sums = new BigUint64Array(shared);

const workers = Array.from({ length: WORKERS }, (_, index) => new Worker(path.join(__dirname, 'worker.js'), { workerData: { shared, index } }));
const state = { tag: null, counter: 0, seed: 12345, ticks: 0, timeouts: 0, events: [], data: new Map() };

setInterval(() => { state.ticks += 1; }, 10);
(function again() { setTimeout(() => { state.timeouts += 1; again(); }, 25); })();
fs.watch(watched, (kind, name) => { state.events.push(name); });

// mulberry32: 32-bit integer arithmetic that the driver can follow; called often enough to be compiled.
function next() {
  state.seed = (state.seed + 0x6D2B79F5) | 0;
  let t = Math.imul(state.seed ^ (state.seed >>> 15), 1 | state.seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return (t ^ (t >>> 14)) >>> 0;
}

function digest() {
  const hash = crypto.createHash('sha256');
  for (const [key, value] of state.data) hash.update(`${key}=${value.join(',')};`);
  return hash.digest('hex');
}

// Looks every few milliseconds by a timer of its own, so it shows that timers work as well.
function until(condition) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 30000;
    const timer = setInterval(() => {
      if (condition()) { clearInterval(timer); resolve(true); } else if (Date.now() > deadline) { clearInterval(timer); reject(new Error('timed out')); }
    }, 5);
  });
}

const verbs = {
  '/identity': () => ({ pid: process.pid, clock: Number(process.hrtime.bigint()) }),
  '/tag': (q) => { state.tag = state.tag || q.get('set'); return state.tag; },
  '/snapshot': () => ({ counter: state.counter, seed: state.seed, digest: digest(), size: state.data.size, sums: Array.from(sums, String) }),
  '/count': () => { state.counter += 1; return state.counter; },
  '/fill': (q) => {
    let last = 0;
    for (let i = 0; i < Number(q.get('n')); i += 1) { last = next(); state.data.set(`key${state.data.size}`, [last, last % 7]); }
    return last;
  },
  '/work': (q) => Promise.all(workers.map((worker) => new Promise((resolve) => {
    worker.once('message', resolve);
    worker.postMessage(Number(q.get('n')));
  }))).then((answers) => ({ answers, shared: Array.from(sums, String) })),
  '/timers': () => { const [ticks, timeouts] = [state.ticks, state.timeouts]; return until(() => state.ticks >= ticks + 5 && state.timeouts >= timeouts + 2); },
  '/watch': (q) => until(() => state.events.includes(q.get('name'))),
  // The thread pool of libuv: files and key derivation.
  '/pool': () => Promise.all([fs.promises.readFile(__filename), new Promise((resolve, reject) => {
    crypto.pbkdf2('secret', 'salt', 1000, 32, 'sha512', (error, key) => (error ? reject(error) : resolve(key.toString('hex'))));
  })]).then(([text, key]) => ({ text: crypto.createHash('sha256').update(text).digest('hex'), key })),
};

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (request.headers['x-tag'] && request.headers['x-tag'] !== state.tag) { response.writeHead(421).end(); return; }
  Promise.resolve().then(() => verbs[url.pathname](url.searchParams)).then(
    (answer) => response.end(JSON.stringify(answer)),
    (error) => response.writeHead(500).end(String(error)),
  );
});

// Port 0 stands for a listening socket that was inherited as fd 3: this node cannot ask for SO_REUSEPORT itself.
server.listen(Number(port) ? { host: '127.0.0.1', port: Number(port) } : { fd: 3 }, () => {
  Promise.all(workers.map((worker) => new Promise((resolve) => { worker.once('message', resolve); }))).then(() => {
    fs.writeFileSync(ready, 'ready\n');
  });
  workers.forEach((worker) => worker.postMessage('ready?'));
});
