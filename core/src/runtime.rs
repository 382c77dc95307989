//! The one seam between the library and the machine: tasks, timers, clocks, random numbers, blocking jobs.
