"""Android devices, reached with adb."""
