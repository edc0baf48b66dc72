"""Events of programs: durable in a spool before they are acknowledged, then loaded as the stretches of a stream."""
