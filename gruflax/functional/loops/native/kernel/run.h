// Runs whole calls: chooses the instruction set, shares the rows out among threads, owns the
// memory.

#pragma once

#include <functional>

#include "problem.h"

namespace gruflax {

// Something that runs tasks, as a rule on other threads: at once, late, or never.
struct Threads {
  int64_t count;
  std::function<void(std::function<void()>)> schedule;
};

// Both throw std::bad_alloc where there is no memory.
template <class S>
void run_forward(const Problem<S>& problem, const Threads& threads);
template <class S>
void run_backward(const Problem<S>& problem, const Gradients<S>& gradients, const Threads& threads);

}  // namespace gruflax

#pragma GCC visibility push(default)
extern "C" {
// Uses an instruction set from now on, by its name; null is the best that this machine has. Returns
// its name, or null where this machine has no set of that name, and then changes nothing.
const char* gruflax_use(const char* name);
// Returns the version of what ../ffi.py hands over.
int gruflax_interface();
// Returns the most bytes of scratch memory held at a time since the last call of this.
size_t gruflax_peak_scratch();
}
#pragma GCC visibility pop
