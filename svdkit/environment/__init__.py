"""What this machine is and has, in a form that may be saved beside a clip, and what to do where it falls short."""

from __future__ import annotations

from svdkit.environment.facts import Finding, doctor, machine, notebook_kind, summary

__all__ = ["summary", "machine", "doctor", "Finding", "notebook_kind"]
