// Threads that merge while Python prepares the next tensor. They never ask for Python's lock, so neither waits for the
// other's turn with it.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

struct TensorArgs;
using Kernel = void (*)(const TensorArgs*, int64_t, int64_t, int64_t, uint8_t*);

struct Work {
  Kernel kernel;
  const TensorArgs* batch;
  int64_t batch_size;
  uint8_t* bad;
  int64_t num_parts_left;
};

namespace {

struct Part {
  Work* work;
  int64_t first, last;
};

// Never destroyed: threads wait on them until the process is gone.
std::mutex& mutex = *new std::mutex;
std::condition_variable& is_there = *new std::condition_variable;
std::condition_variable& is_done = *new std::condition_variable;
std::deque<Part>& queue = *new std::deque<Part>;
int64_t num_idle = 0;

void run() {
  std::unique_lock<std::mutex> lock(mutex);
  for (;;) {
    ++num_idle;
    is_there.wait(lock, [] { return !queue.empty(); });
    --num_idle;
    const Part part = queue.front();
    queue.pop_front();
    lock.unlock();
    std::vector<uint8_t> bad(part.work->batch_size);
    part.work->kernel(part.work->batch, part.work->batch_size, part.first, part.last, bad.data());
    lock.lock();
    for (int64_t i = 0; i < part.work->batch_size; ++i) part.work->bad[i] |= bad[i];
    if (--part.work->num_parts_left == 0) is_done.notify_all();
  }
}

}  // namespace

// Starts what is missing of a number of threads, which live as long as the process, and returns how many there are.
extern "C" int64_t crossbreed_have_threads(int64_t number) {
  static int64_t running = 0;
  try {
    for (; running < number; ++running) std::thread(run).detach();
  } catch (const std::system_error&) {  // the machine allows no more
  }
  return running;
}

// Splits 0 ... length into parts; `work` must stay where it is until it is done.
extern "C" void crossbreed_begin(Work* work, int64_t length, int64_t num_parts) {
  int64_t num_to_wake;
  {
    std::lock_guard<std::mutex> lock(mutex);
    work->num_parts_left = num_parts;
    for (int64_t i = 0; i < num_parts; ++i) queue.push_back({work, length * i / num_parts, length * (i + 1) / num_parts});
    num_to_wake = num_idle < num_parts ? num_idle : num_parts;
  }
  for (int64_t i = 0; i < num_to_wake; ++i) is_there.notify_one();
}

extern "C" void crossbreed_wait(const Work* work) {
  std::unique_lock<std::mutex> lock(mutex);
  is_done.wait(lock, [work] { return work->num_parts_left == 0; });
}
